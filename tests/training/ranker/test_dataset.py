from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recsys.contracts.errors import InvalidData
from recsys.contracts.state import Visit
from recsys.contracts.types import EventType, Head, Item
from recsys.lake.lake import newest_days
from recsys.models.encoding import encode_visits
from tests.training.ranker.rank_fixture import DAY_MS, EXAMPLE_SCHEMA, N_FEATURES, write_world
from training.ranker.dataset import examples_of, item_fields, read_examples, rows_of_days, temporal_split

ITEMS = ["a", "b", "c"]
NOW = 50 * DAY_MS


def row(**changes: object) -> dict[str, object]:
    return {
        "request_id": "r",
        "user_id": "u",
        "item_id": "a",
        "event_time_ms": NOW,
        "position": 0,
        "click": 1,
        "conversion": 0,
        "like": 0,
        "dwell_ms": 0,
        "sampled": False,
        "history_items": [],
        "history_types": [],
        "history_times": [],
        "features": np.array([0, 1], "<f4").tobytes(),
    } | changes


def table(*rows: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=EXAMPLE_SCHEMA)


def test_histories_equal_the_encoding_that_serving_uses() -> None:
    rng = np.random.default_rng(3)
    rows = {item: i for i, item in enumerate(ITEMS)}
    histories = []
    for _ in range(60):
        n = int(rng.integers(0, 9))
        times = np.sort(NOW - rng.integers(0, 10**9, n)) * (rng.random(n) > 0.1)
        items = rng.choice([*ITEMS, "unknown"], n)
        types = rng.choice(["click", "purchase"], n)
        histories.append([(str(i), str(k), int(t)) for i, k, t in zip(items, types, times, strict=True)])
    found = examples_of(
        table(
            *(
                row(
                    history_items=[i for i, _, _ in h],
                    history_types=[k for _, k, _ in h],
                    history_times=[t for _, _, t in h],
                )
                for h in histories
            )
        ),
        ITEMS,
        2,
        length=5,
    )
    for i, history in enumerate(histories):
        visits = [Visit(t, "", EventType(kind), item, ()) for item, kind, t in history]
        wanted = encode_visits(visits, rows, NOW, 5)
        np.testing.assert_array_equal(found.history[i], wanted.history)
        np.testing.assert_array_equal(found.types[i], wanted.types)
        np.testing.assert_array_equal(found.gaps[i], wanted.gaps)


def test_labels_are_in_the_order_of_the_heads() -> None:
    found = examples_of(
        table(
            row(click=1, conversion=1, like=1, dwell_ms=1_000, user_id="x", item_id="b", position=4),
            row(click=0, conversion=1, dwell_ms=-5, item_id="gone", position=None),
        ),
        ITEMS,
        2,
        length=3,
    )
    assert found.label(Head.CLICK).tolist() == [1, 0]
    assert found.label(Head.CONVERSION).tolist() == [1, 0]  # a conversion without a click is not one
    assert found.label(Head.LIKE).tolist() == [1, 0]
    np.testing.assert_allclose(found.label(Head.DWELL), [np.log(2), 0], rtol=1e-6)
    assert found.items.tolist() == [2, 0]
    assert found.position.tolist() == [4, 0]
    assert found.users[0] != found.users[1]


def test_examples_of_other_feature_definitions_are_refused() -> None:
    with pytest.raises(InvalidData, match="row 1 has 1 features, the definitions have 2"):
        examples_of(table(row(), row(features=np.array([1], "<f4").tobytes())), ITEMS, 2, length=3)


def test_no_examples_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="recsys features build"):
        read_examples(tmp_path, ITEMS, 2, 3)


def test_days_are_read_in_time_order_and_split_by_time(tmp_path: Path) -> None:
    write_world(tmp_path, rows=600)
    ids = [f"i{n:03d}" for n in range(40)]
    examples = read_examples(tmp_path / "examples", ids, N_FEATURES, 4)
    assert len(examples) == 600
    assert (np.diff(examples.time_ms) >= 0).all()
    train, validation = temporal_split(examples, 0.25)
    assert len(train) + len(validation) == 600
    assert train.time_ms.max() < validation.time_ms.min()
    one_day = read_examples(tmp_path / "examples", ids, N_FEATURES, 4, days=["1970-01-12"])
    assert set(one_day.time_ms // DAY_MS) == {11}


def test_the_newest_days_are_as_many_as_the_rows_need(tmp_path: Path) -> None:
    write_world(tmp_path, rows=600)
    days = sorted(path.name[3:] for path in (tmp_path / "examples").iterdir())
    rows = [len(read_examples(tmp_path / "examples", [], N_FEATURES, 1, [day])) for day in days]
    found = rows_of_days(tmp_path / "examples")
    assert found == dict(zip(days, rows, strict=True))
    assert newest_days(found, 1) == days[-1:]
    assert newest_days(found, rows[-1]) == days[-1:]
    assert newest_days(found, rows[-1] + 1) == days[-2:]
    assert newest_days(found, 10_000) == days


def test_rare_field_values_are_unknown() -> None:
    items = [
        Item("a", categories=("x",), creator="k"),
        Item("b", categories=("x",)),
        Item("c", categories=("y", "z")),
    ]
    found = item_fields(items)
    assert found.sizes == (2,)  # of the main category, "x" alone is not rare; the other fields have nothing
    assert found.codes.tolist() == [[0], [1], [1], [0]]
