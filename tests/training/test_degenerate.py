"""Logs in which something is missing: a bundle is published from what there is, and the API answers from it."""

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from recsys.bundle import Bundle
from recsys.contracts.events import Event
from recsys.contracts.types import ENGAGEMENT, MS_PER_DAY, MS_PER_HOUR, EventType, Head, Item
from recsys.features.definitions import FEATURES
from recsys.items.item_table import items_table
from recsys.lake.lake import EVENTS, day_writer, events_table, write_parquet
from recsys.models.ranker import RankerConfig
from recsys.models.two_tower import TwoTowerShape
from recsys.ranking.calibration import Constant, read_calibrations
from tests.serving.conftest import NOW_MS, open_api
from tests.traces_of import files_with
from tests.training.features.feature_rows import event_rows, with_items, with_users
from training.features.kernel import REQUEST_TEXTS, item_side, user_side
from training.features.labels import LabelConfig, label
from training.features.negatives import Popularity
from training.features.sequences import sequences
from training.publish import PublishConfig
from training.publish import main as publish
from training.ranker.loop import LoopConfig
from training.ranker.train import RankerTraining
from training.ranker.train import main as train_ranker
from training.two_tower.config import TwoTowerConfig
from training.two_tower.export import main as export_two_tower
from training.two_tower.train import main as train_two_tower

USER = "somebody-"
Log = Callable[[random.Random], list[Event]]
_CONTEXT = tuple(REQUEST_TEXTS.values())
_TOWERS = TwoTowerShape(dim=8, blocks=1, heads=1, hidden=16)
_RANKER = RankerConfig(width=8, bins=2, cross_layers=1, cross_rank=4, shared_experts=1, expert_layers=(8,))


def shown(rng: random.Random, users: int, items: int, then: Sequence[EventType], share: float) -> list[Event]:
    """Lists of three over five days; a share of the shown items leads to events of each of these types."""
    events = []
    for n in range(users * 12):
        at, user = NOW_MS - 6 * MS_PER_DAY + n * MS_PER_HOUR // 2, f"{USER}{n % users}"
        for position, item in enumerate(rng.sample(range(items), min(3, items))):
            what = [EventType.IMPRESSION, *(then if rng.random() < share else ())]
            events += [
                Event(f"{n}-{item}-{kind}", kind, user, f"i{item}", at + later, f"r{n}", position)
                for later, kind in enumerate(what)
            ]
    return events


def orders_without_clicks(rng: random.Random) -> list[Event]:
    return shown(rng, 10, 12, [EventType.PURCHASE], 0.3)


def one_user_clicks_all(rng: random.Random) -> list[Event]:
    return shown(rng, 1, 12, [EventType.CLICK], 1.0)


def nobody_clicks(rng: random.Random) -> list[Event]:
    return shown(rng, 4, 6, [], 0.0)


def one_order(rng: random.Random) -> list[Event]:
    return [Event("only", EventType.PURCHASE, f"{USER}0", "i0", NOW_MS - MS_PER_DAY)]


CASES: list[tuple[Log, set[Head]]] = [
    (orders_without_clicks, {Head.CLICK}),
    (one_order, set()),
]


@pytest.mark.slow
@pytest.mark.parametrize(("log", "learnt"), CASES, ids=[log.__name__ for log, _ in CASES])
def test_a_bundle_is_published_from_what_there_is(log: Log, learnt: set[Head], tmp_path: Path) -> None:
    events = log(random.Random(1))
    bundle = trained(events, tmp_path)

    metrics = bundle.manifest.metrics
    text = (bundle.path / "manifest.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    defined = {head for head in Head if metrics.get(f"ranker_{head}_auc") is not None}
    constant = {
        head
        for head, map_ in read_calibrations(bundle.file("calibration.json")).items()
        if isinstance(map_, Constant)
    }
    assert learnt <= defined
    assert learnt == set(Head) - constant
    assert metrics["ranker_like_auc"] is None
    with_ids = files_with(tmp_path, USER)
    assert {path.split("/")[0] for path in with_ids} == {"lake", "features"}, "models name no users"

    api = open_api(tmp_path, bundle=False)
    try:
        known = {e.item_id for e in events}
        for user in (f"{USER}0", "nobody"):
            response = api.recommend(user, k=3)
            assert response.status_code == 200, response.text
            assert not response.json()["degraded"]
            lines = response.json()["items"]
            assert {line["item_id"] for line in lines} <= known
            assert len(lines) == min(3, len(known))
            assert all(math.isfinite(line["score"]) for line in lines)
    finally:
        api.client.__exit__(None, None, None)


@pytest.mark.parametrize(("log", "clicked"), [(one_user_clicks_all, True), (nobody_clicks, False)])
def test_labels_that_are_all_the_same_are_examples(log: Log, clicked: bool) -> None:
    events = log(random.Random(1))
    labels = label(event_rows(events), *labelling(events)).column(str(Head.CLICK))
    assert labels.unique().to_pylist() == [int(clicked)]


def trained(events: list[Event], home: Path) -> Bundle:
    """Import, features, both models in their smallest size, and a published bundle."""
    items = [Item(i, i, ("c",), "", 0) for i in sorted({e.item_id for e in events})]
    lake = home / "lake"
    with day_writer(lake, EVENTS, "import-test") as writer:
        writer.write(events_table(events))
    write_parquet(lake / "items" / "items.parquet", items_table(items))
    rows = event_rows(events)
    write_parquet(home / "features" / "sequences" / "all.parquet", sequences(rows))
    bare = with_items(label(rows, *labelling(events)), items)
    examples = user_side(with_users(item_side(bare, rows), []), rows)
    write_parquet(home / "features" / "examples" / "dt=2025-06-15" / "all.parquet", examples)

    towers = train_two_tower(
        TwoTowerConfig(
            sequences=home / "features" / "sequences",
            items=lake / "items" / "items.parquet",
            shape=_TOWERS,
            work=home / "checkpoints",
            epochs=1,
        )
    )
    export_two_tower(towers, home / "work" / "two_tower")
    train_ranker(
        RankerTraining(
            n_features=FEATURES.dimension,
            examples=home / "features" / "examples",
            items=lake / "items" / "items.parquet",
            out=home / "work" / "ranker",
            checkpoints=home / "checkpoints",
            model=_RANKER,
            loop=LoopConfig(epochs=1),
        )
    )
    work = home / "work"
    return publish(
        PublishConfig(
            lake=lake, two_tower=work / "two_tower", ranker=work / "ranker", bundles=home / "bundles"
        )
    )


def labelling(events: list[Event]) -> tuple[LabelConfig, tuple[str, ...], Popularity | None]:
    """As the Spark job decides it from the log."""
    end = NOW_MS + MS_PER_DAY
    if any(e.type is EventType.IMPRESSION for e in events):
        return LabelConfig(0, end), _CONTEXT, None
    engaged = sorted((e for e in events if e.type in ENGAGEMENT), key=lambda e: e.event_time_ms)
    ids = sorted({e.item_id for e in engaged})
    numbers = [ids.index(e.item_id) for e in engaged]
    times = np.array([e.event_time_ms for e in engaged])
    popularity = Popularity(times, np.array(numbers, np.int32), ids, [None] * len(ids), [None] * len(ids))
    return LabelConfig(0, end, unshown=ENGAGEMENT), _CONTEXT, popularity
