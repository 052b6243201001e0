"""From a lake to a published bundle in one process, without Spark: the two-tower, then the ranker."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from infra.notebook.dataset import nearest
from infra.notebook.progress import Show
from recsys.bundle import Bundle
from recsys.contracts.errors import InvalidConfig
from recsys.datasets.catalogue import items_path, users_path
from recsys.features.definitions import FEATURES
from recsys.items.item_table import read_items
from recsys.models.two_tower import TwoTowerShape
from recsys.operator_files import problems_of
from training import publish
from training.evaluation.sources import lake_log
from training.features.local import build_examples
from training.publish import PublishConfig
from training.ranker import train as train_ranker
from training.ranker.loop import LoopConfig
from training.ranker.train import RankerTraining
from training.two_tower import export as export_two_tower
from training.two_tower import train as train_two_tower
from training.two_tower.config import TwoTowerConfig, Validation
from training.two_tower.result import TwoTowerResult
from training.two_tower.sequences import History, write_sequences

_NEWEST = 50_000  # events whose examples the ranker learns from
PATHS = frozenset({"sequences", "items", "users", "work", "start"})  # settings that are not the caller's


def two_tower_config(home: Path, settings: Mapping[str, Any]) -> TwoTowerConfig:
    """The configuration of a training in `home`; by default without held-out events.

    Raises:
        InvalidConfig: a setting is unknown, with the nearest names, or its value is out of range.
    """
    names = TwoTowerConfig.model_fields.keys() - PATHS
    for name in settings.keys() - names:
        if name in TwoTowerShape.model_fields:
            raise InvalidConfig(f"{name}: is part of the shape: shape={{{name!r}: …}}")
        raise InvalidConfig(f"unknown setting {name!r}{nearest(name, names)} (`TwoTowerConfig` has them all)")
    try:
        return TwoTowerConfig.model_validate(
            {"validation": Validation.NONE, **settings}
            | {
                "sequences": home / "features" / "sequences",
                "items": items_path(home / "lake"),
                "users": users_path(home / "lake"),
                "work": home / "checkpoints" / "two_tower",
            }
        )
    except ValidationError as error:
        raise InvalidConfig(problems_of(error)) from error


def fit_bundle(home: Path, towers: TwoTowerConfig, rank_epochs: int, show: Show) -> Bundle:
    """Train both models on `home`/lake and publish them in `home`/bundles.

    Raises:
        InvalidData: the lake has no engagement, or no example for the ranker.
    """
    lake, work = home / "lake", home / "work"
    with own_threads():
        train_recall(lake_log(lake).histories, towers, work / "two_tower", show)
        show("examples", 0, None)
        build_examples(lake, home / "features" / "examples", _NEWEST, seed=towers.seed)
        show("ranker", 0, rank_epochs)
        ranker = RankerTraining(
            n_features=FEATURES.dimension,
            examples=home / "features" / "examples",
            items=items_path(lake),
            out=work / "ranker",
            checkpoints=home / "checkpoints" / "ranker",
            loop=LoopConfig(epochs=rank_epochs, seed=towers.seed),
        )
        train_ranker.main(ranker, lambda epoch, score: show("ranker", epoch, rank_epochs))
    show("publish", 0, None)
    paths = {"two_tower": work / "two_tower", "ranker": work / "ranker", "bundles": home / "bundles"}
    return publish.main(PublishConfig(lake=lake, **paths))


def train_recall(
    histories: Sequence[History], config: TwoTowerConfig, work: Path | None, show: Show
) -> TwoTowerResult:
    """Train the two-tower on these histories; export it to `work`, unless that is None."""
    write_sequences(config.sequences / "sequences.parquet", histories, read_items(config.items))
    result = train_two_tower.main(
        config, lambda phase, done, epochs: show(f"two-tower, {phase}", done, epochs)
    )
    if work is not None:
        export_two_tower.main(result, work)
    return result


@contextmanager
def own_threads() -> Iterator[None]:
    """Leave the process with as many threads of torch as it had: the trainers set their own number."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
