"""What the store must hold, recomputed from the log, and how far it is from that.

The recomputation shares only the fold of one event with the worker: it reads the log once, in order, without batches,
claims or offsets.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from infra.evaluation.stream_rig import records_between
from recsys.contracts.errors import InvalidEvent
from recsys.contracts.event_log import EventSource, Record
from recsys.contracts.events import Event, parse_reported
from recsys.contracts.impression_record import read_impression
from recsys.contracts.impressions import impression_events
from recsys.contracts.state import EntityState
from recsys.contracts.time_rules import TimeRules
from recsys.contracts.types import Topic
from recsys.store.base import FeatureStore, StateDefinition

_READ_S = 600.0


@dataclass
class Expected:
    """Every state that the log leads to, and the number of records that must be dead letters."""

    users: dict[str, EntityState]
    items: dict[str, EntityState]
    counted: set[bytes] = field(default_factory=set)  # keys of what counts once
    events: int = 0
    duplicates: int = 0
    dead_letters: int = 0


@dataclass
class Differences:
    """Cells that differ (lost: too low, doubled: too high), and histories that are not the same sequence."""

    cells: int = 0
    wrong_cells: int = 0
    lost: int = 0
    doubled: int = 0
    sequences: int = 0
    wrong_sequences: int = 0


def expected_states(source: EventSource, topics: tuple[Topic, ...], features: StateDefinition) -> Expected:
    """Fold the whole log, each event (user, event id) once."""
    expected, rules = Expected({}, {}), TimeRules()
    watermarks: dict[tuple[str, int], int] = {}
    seen: set[tuple[str, str]] = set()
    ends = {(t, p): source.end_offset(t, p) for t in topics for p in range(source.partitions(t))}
    for record in records_between(source, {}, ends, _READ_S):
        where = (record.topic, record.partition)
        try:
            events = _parse(record)
        except (msgspec.DecodeError, UnicodeDecodeError, InvalidEvent):
            expected.dead_letters += 1
            continue
        if any(rules.is_late(e.event_time_ms, watermarks.get(where, 0)) for e in events):
            expected.dead_letters += 1
            continue
        for event in events:
            watermarks[where] = max(watermarks.get(where, 0), event.event_time_ms)
            if event.key in seen:
                expected.duplicates += 1
                continue
            seen.add(event.key)
            expected.events += 1
            _fold(event, features, expected)
    return expected


def differences(expected: Expected, store: FeatureStore) -> Differences:
    """Compare every state; cells that should not be there count as doubled."""
    found = Differences()
    for user_id, state in expected.users.items():
        stored = store.user(user_id)
        _compare_cells(state.cells, stored.cells, found)
        for name in state.histories.keys() | stored.histories.keys():
            found.sequences += 1
            found.wrong_sequences += state.histories.get(name) != stored.histories.get(name)
    items = dict(store.all_items())
    for item_id in expected.items.keys() | items.keys():
        state, stored = (side.get(item_id, EntityState()) for side in (expected.items, items))
        _compare_cells(state.cells, stored.cells, found)
    return found


def _compare_cells(expected: Mapping[str, int], stored: Mapping[str, int], found: Differences) -> None:
    for cell in expected.keys() | stored.keys():
        difference = stored.get(cell, 0) - expected.get(cell, 0)
        found.cells += 1
        found.wrong_cells += difference != 0
        found.lost += difference < 0
        found.doubled += difference > 0


def _parse(record: Record) -> list[Event]:
    if record.topic == Topic.IMPRESSIONS:
        return impression_events(read_impression(record.value))
    return [parse_reported(msgspec.json.decode(record.value))]


def _fold(event: Event, features: StateDefinition, expected: Expected) -> None:
    folded = features.fold(event)
    user = expected.users.setdefault(event.user_id, EntityState())
    for delta in folded.user:
        user.change(delta)
    for history, visit in folded.visits:
        user.visit(history, visit)
    if changes := folded.of_item(expected.counted):
        item = expected.items.setdefault(event.item_id, EntityState())
        for delta in changes:
            item.change(delta)
