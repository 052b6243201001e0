"""Frames become a lake: what is guessed, named, left out and refused. pandas and polars give the same events."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from infra.notebook.dataset import Imported, id_types, import_frames
from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.contracts.events import Event
from recsys.contracts.types import EventType
from recsys.datasets.catalogue import items_path, read_users
from recsys.datasets.mapping import Mapping
from recsys.items.item_table import read_items
from recsys.lake.lake import read_events

START = datetime(2024, 5, 1, tzinfo=UTC)
ROWS: dict[str, list[Any]] = {
    "user_id": [1, 1, 2, 2, 3],
    "item_id": [10, 11, 10, 12, 11],
    "rating": [5, 3, 4, 3, 4],
    "time": [START + timedelta(hours=n) for n in range(5)],
}
ITEMS: dict[str, list[Any]] = {
    "item_id": [10, 11, 12],
    "title": ["Kettle", "Teapot", "Pan"],
    "categories": [["Kitchen", "Tea"], ["Tea"], []],
}
USERS: dict[str, list[Any]] = {"user_id": [1, 2, 3], "country": ["NL", "DE", "NL"]}
Make = Callable[[Any], Any]


@pytest.fixture(params=[pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
def make(request: pytest.FixtureRequest) -> Make:
    made: Make = request.param
    return made


def imported(
    folder: Path,
    events: Any,
    items: Any = None,
    users: Any = None,
    columns: dict[str, str] | None = None,
    mapping: Mapping | Path | None = None,
) -> Imported:
    frames = {"events": events, "items": items, "users": users}
    given = {name: frame for name, frame in frames.items() if frame is not None}
    data, lake = folder / "datasets" / "frames", folder / "lake"
    return import_frames(given, data, lake, columns or {}, mapping, None, lambda phase, rows: None)


def events_of(folder: Path) -> list[Event]:
    return list(read_events(folder / "lake"))


def test_frames_become_events_items_and_users(make: Make, tmp_path: Path) -> None:
    found = imported(tmp_path, make(ROWS), make(ITEMS), make(USERS))
    events = events_of(tmp_path)
    assert [(e.type, e.user_id, e.item_id, e.value) for e in events] == [
        (EventType.RATING, str(u), str(i), float(r))
        for u, i, r in zip(ROWS["user_id"], ROWS["item_id"], ROWS["rating"], strict=True)
    ]
    assert [e.event_time_ms for e in events] == [round(t.timestamp() * 1_000) for t in ROWS["time"]]
    items = read_items(items_path(tmp_path / "lake"))
    assert [(i.item_id, i.title, i.categories) for i in items] == [
        ("10", "Kettle", ("Kitchen", "Tea")),
        ("11", "Teapot", ("Tea",)),
        ("12", "Pan", ()),
    ]
    assert [(u.user_id, u.attributes) for u in read_users(tmp_path / "lake")][1] == ("2", {"country": "DE"})
    assert found.report.broken == 0
    assert id_types(tmp_path / "datasets" / "frames") == (pa.int64(), pa.int64())


def test_times_of_any_kind_are_the_same_instant(make: Make, tmp_path: Path) -> None:
    times: dict[str, list[Any]] = {
        "aware": ROWS["time"],
        "naive": [time.replace(tzinfo=None) for time in ROWS["time"]],
        "texts": [time.isoformat() for time in ROWS["time"]],
        "seconds": [round(time.timestamp()) for time in ROWS["time"]],
    }
    for name, column in times.items():
        imported(tmp_path / name, make({**ROWS, "time": column}))
    first, *others = (events_of(tmp_path / name) for name in times)
    assert all(events == first for events in others)


def test_rows_without_an_id_are_left_out_and_said_so(make: Make, tmp_path: Path) -> None:
    found = imported(tmp_path, make({**ROWS, "user_id": [1.0, None, 2.0, float("nan"), 3.0]}))
    assert [event.user_id for event in events_of(tmp_path)] == ["1", "2", "3"]
    assert "2 rows are left out: events.parquet: user_id: is empty (2)" in found.doubts


def test_types_with_gaps_and_categories_are_read(tmp_path: Path) -> None:
    texts = {"user_id": "string", "item_id": "string"}
    categories = pl.col("user_id", "item_id").cast(str).cast(pl.Categorical)
    frames = {
        "plain": pd.DataFrame(ROWS).astype(texts),
        "nullable": pd.DataFrame(ROWS).astype({"user_id": "Int64", "rating": "Float64", "item_id": "string"}),
        "categories": pd.DataFrame(ROWS).astype(texts).astype("category"),
        "polars": pl.DataFrame(ROWS).with_columns(categories),
    }
    for name, frame in frames.items():
        imported(tmp_path / name, frame)
        assert events_of(tmp_path / name) == events_of(tmp_path / "plain"), name


def test_columns_are_named_where_the_guess_would_take_others(make: Make, tmp_path: Path) -> None:
    rows = {"who": ROWS["user_id"], "sku": ROWS["item_id"], "item_id": [0] * 5, "x": ROWS["rating"]}
    catalogue = {"sku": ITEMS["item_id"], "label": ITEMS["title"], "item_id": [7, 8, 9]}
    names = {"user_id": "who", "item_id": "sku", "rating": "x", "title": "label"}
    found = imported(tmp_path, make(rows), make(catalogue), columns=names)
    assert next((e.user_id, e.item_id, e.value) for e in events_of(tmp_path)) == ("1", "10", 5.0)
    assert [i.title for i in read_items(items_path(tmp_path / "lake"))] == ITEMS["title"]
    assert any("no column of times" in doubt for doubt in found.doubts)


def test_wrong_names_say_what_there_is(make: Make, tmp_path: Path) -> None:
    frame = make(ROWS)
    with pytest.raises(InvalidConfig, match="no role 'user'; did you mean user_id"):
        imported(tmp_path, frame, columns={"user": "user_id"})
    with pytest.raises(InvalidData, match="no frame has a column 'customer': events has user_id, item_id"):
        imported(tmp_path, frame, columns={"user_id": "customer"})
    with pytest.raises(InvalidConfig, match="two roles name the same column"):
        imported(tmp_path, frame, columns={"user_id": "user_id", "item_id": "user_id"})
    with pytest.raises(InvalidData, match="time: the values of 'rating' cannot be read as that"):
        imported(tmp_path, frame, columns={"time": "rating"})
    with pytest.raises(InvalidData, match="no table has a column of users"):
        imported(tmp_path, make({"a": [1, 2], "b": [3, 4]}))
    with pytest.raises(InvalidData, match="items: its columns are a, and none can be told"):
        imported(tmp_path, frame, make({"a": [1.5, 2.5]}))


def test_a_log_without_a_choice_is_refused(make: Make, tmp_path: Path) -> None:
    rows = {"user": ROWS["user_id"], "item": ROWS["item_id"], "event": ["shown"] * 5}
    with pytest.raises(InvalidData, match=r"nobody engages with an item, there are only impression \(5\)"):
        imported(tmp_path, make(rows))


def test_a_mapping_takes_the_place_of_the_guess(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "mapping.yaml"
    file.write_text(
        "events:\n  files: [anything.csv]\n  user: user_id\n  item: item_id\n"
        "  time: {column: time, unit: iso}\n  events: [{type: purchase}]\n"
    )
    found = imported(tmp_path, make(ROWS), mapping=file)
    assert {event.type for event in events_of(tmp_path)} == {EventType.PURCHASE}
    assert found.mapping.events.files == ["events.parquet"]
    with pytest.raises(InvalidConfig, match="leave one of them"):
        imported(tmp_path, make(ROWS), columns={"user_id": "user_id"}, mapping=file)
    with pytest.raises(InvalidConfig, match="mapping: has no items"):
        imported(tmp_path, make(ROWS), make(ITEMS), mapping=file)


def test_items_that_the_catalogue_lacks_are_said(make: Make, tmp_path: Path) -> None:
    some = {name: values[:2] for name, values in ITEMS.items()}
    found = imported(tmp_path, make(ROWS), make(some))
    assert any("1 items of 1 events are not in `items`" in doubt for doubt in found.doubts)
