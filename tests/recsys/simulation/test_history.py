"""A simulated history in the lake: reproducible, complete, and without the ground truth."""

from collections import Counter
from pathlib import Path

import pytest

from recsys.contracts.events import parse_event
from recsys.contracts.types import EventType
from recsys.items.item_table import read_items
from recsys.lake.lake import days, read_events
from recsys.simulation.history import HistoryConfig, write_history
from recsys.simulation.world import WorldConfig, create_world

CONFIG = WorldConfig(seed=1, users=60, items=80, days=4)
HISTORY = HistoryConfig(days=2, k=6)


def test_the_same_world_writes_the_same_lake(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    written = write_history(create_world(CONFIG), first, HISTORY)
    write_history(create_world(CONFIG), second, HISTORY)
    events = list(read_events(first))
    assert events == list(read_events(second))
    assert written.events == len(events) > 100
    assert written.sessions > 50
    assert len(days(first)) >= 2


def test_events_keep_the_contract_and_name_what_was_shown(tmp_path: Path) -> None:
    write_history(create_world(CONFIG), tmp_path, HISTORY)
    events = list(read_events(tmp_path))
    items = {item.item_id: item for item in read_items(tmp_path / "items" / "items.parquet")}
    shown = {(e.request_id, e.item_id) for e in events if e.type is EventType.IMPRESSION}
    kinds = Counter(e.type for e in events)
    assert kinds[EventType.IMPRESSION] == pytest.approx(6 * len({e.request_id for e in events}), rel=0.1)
    assert min(kinds[k] for k in (EventType.CLICK, EventType.DWELL)) > 10
    for event in events:
        assert parse_event(event.to_dict()) == event
        assert (event.request_id, event.item_id) in shown
        if event.item_id in items:  # the others have expired since
            assert event.categories == items[event.item_id].categories
    assert all(set(item.attributes) == {"price", "duration_ms"} for item in items.values())
