"""KuaiRand: what a row becomes, what merges, and what is known from before the log."""

from collections import Counter
from pathlib import Path

import pytest

from recsys.contracts.events import Event
from recsys.contracts.types import EventType
from recsys.datasets.importer import import_dataset
from recsys.datasets.mapper import SYNTHETIC_TIME
from recsys.datasets.opening import open_dataset
from recsys.lake.lake import read_events as lake_events
from tests.recsys.datasets import samples
from tests.recsys.datasets.samples import LOG_START_MS
from tests.recsys.datasets.streams import read_events, read_items, read_users


def logged(events: list[Event]) -> list[Event]:
    return [event for event in events if SYNTHETIC_TIME not in event.context]


@pytest.mark.parametrize("write", [samples.kuairand_csv, samples.kuairand_parquet])
def test_a_row_is_an_impression_and_what_followed(write: object, tmp_path: Path) -> None:
    folder = (
        samples.kuairand_csv(tmp_path / "k")
        if write is samples.kuairand_csv
        else samples.kuairand_parquet(tmp_path / "k")
    )
    report = import_dataset(open_dataset(folder), tmp_path / "lake")
    events = logged(list(lake_events(tmp_path / "lake")))
    kinds = Counter(event.type for event in events)
    assert kinds == {
        EventType.IMPRESSION: 3,
        EventType.CLICK: 2,
        EventType.DWELL: 3,
        EventType.LIKE: 1,
        EventType.PURCHASE: 1,
    }
    assert report.duplicates_by_type == {"impression": 1}
    first = [event for event in events if event.request_id == f"1-{LOG_START_MS}"]
    assert len(first) == 5
    dwell = next(event for event in first if event.type is EventType.DWELL)
    assert dwell.value == 9_000.0
    assert dwell.context == {"categories": "tag_39|tag_2", "creator": "7", "tab": "4"}


def test_what_followed_an_impression_is_later_than_it(tmp_path: Path) -> None:
    """Otherwise features as of the impression could hold its own label."""
    events = logged(list(read_events(open_dataset(samples.kuairand_csv(tmp_path / "k")))))
    shown = {
        (e.user_id, e.item_id, e.request_id): e.event_time_ms
        for e in events
        if e.type is EventType.IMPRESSION
    }
    followed = [e for e in events if e.type is not EventType.IMPRESSION]
    assert followed
    for event in followed:
        assert 0 < event.event_time_ms - shown[event.user_id, event.item_id, event.request_id] < 10


def test_history_keeps_its_order_and_ends_before_the_log(tmp_path: Path) -> None:
    events = list(read_events(open_dataset(samples.kuairand_parquet(tmp_path / "k"))))
    history = [event for event in events if SYNTHETIC_TIME in event.context]
    of_1 = [(e.type, e.item_id, LOG_START_MS - e.event_time_ms) for e in history if e.user_id == "1"]
    hour, minute = 3_600_000, 60_000
    assert sorted(of_1, key=lambda event: -event[2]) == [
        (EventType.CLICK, "100", hour + minute),
        (EventType.PURCHASE, "100", hour + minute - 1),
        (EventType.CLICK, "101", hour),
        (EventType.LIKE, "101", hour),
        (EventType.PURCHASE, "101", hour - 1),
    ]
    # the second user was last seen within the log: the history still ends before it
    assert max(e.event_time_ms for e in history if e.user_id == "2") < LOG_START_MS
    assert all(e.type is not EventType.IMPRESSION for e in history)


def test_no_column_that_knows_the_future_is_read(tmp_path: Path) -> None:
    items = {
        item.item_id: item for item in read_items(open_dataset(samples.kuairand_parquet(tmp_path / "k")))
    }
    assert set(items["100"].attributes) == {"duration_ms", "video_type", "upload_type", "music_type"}
    assert items["100"].created_ms == 1_649_548_800_000  # 2022-04-10
    assert items["101"].categories == ()
    assert "duration_ms" not in items["101"].attributes


def test_user_features_are_attributes(tmp_path: Path) -> None:
    users = list(read_users(open_dataset(samples.kuairand_csv(tmp_path / "k"))))
    assert users[0].attributes == {"degree": "full", "fans": "[10,100)"}
