"""The fault-injection test at small size, and that its own comparison would notice a fault."""

from dataclasses import replace
from itertools import islice

import msgspec
import pytest

from infra.evaluation.fault_injection.stream import StreamDrill, drill_records, run
from infra.evaluation.fault_injection.verify import Differences, differences, expected_states
from infra.local.redis import Persistence
from recsys.contracts.events import Event
from recsys.contracts.types import MS_PER_DAY, EventType, Topic
from recsys.features.definitions import FEATURES
from recsys.store.base import Batch, StoreConfig
from recsys.store.memory import MemoryFeatureStore
from tests.memory_event_log import MemoryEventLog

T0 = 1_700_000_000_000
TOPICS = (Topic.EVENTS, Topic.IMPRESSIONS)


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.kafka
@pytest.mark.timeout(900)
def test_nothing_is_lost_or_doubled_and_the_control_is_wrong() -> None:
    config = replace(StreamDrill.quick(seed=1), persistences=(Persistence.AOF,))
    result = run(config)
    assert result.met, result.figures
    assert result.figures["aof_events"] > 5_000
    assert result.figures["aof_dead_letters_expected"] > 0


def test_the_records_are_the_same_for_the_same_seed() -> None:
    config = StreamDrill.quick(seed=3)
    shapes = [[(topic, key) for topic, key, _ in islice(drill_records(config), 500)] for _ in range(2)]
    assert shapes[0] == shapes[1]
    assert {topic for topic, _ in shapes[0]} == set(TOPICS)


def test_the_log_is_recomputed_without_duplicates_poison_and_late_events() -> None:
    log = MemoryEventLog(2)
    click = Event("1", EventType.CLICK, "u", "i", T0 + 2 * MS_PER_DAY)
    late = replace(click, event_id="2", event_time_ms=T0)
    for event in (click, click, late):
        log.append(Topic.EVENTS, "u", msgspec.json.encode(event.to_dict()))
    log.append(Topic.EVENTS, "u", b"{")
    expected = expected_states(log.source(), TOPICS, FEATURES)
    assert (expected.events, expected.duplicates, expected.dead_letters) == (1, 1, 2)
    assert [v.event_id for v in expected.users["u"].histories["engaged"]] == ["1"]


def compare(sent: list[Event], applied: list[Event]) -> Differences:
    log = MemoryEventLog(1)
    for event in sent:
        log.append(Topic.EVENTS, event.user_id, msgspec.json.encode(event.to_dict()))
    store = MemoryFeatureStore(FEATURES, StoreConfig(1))
    epoch = store.claim("t", 0, "").epoch
    store.apply(Batch("t", 0, epoch, 0, len(applied), T0, range(len(applied)), applied))
    return differences(expected_states(log.source(), TOPICS, FEATURES), store)


def test_one_missing_and_one_doubled_event_are_seen() -> None:
    events = [Event(str(n), EventType.CLICK, f"u{n % 3}", f"i{n % 5}", T0 + n) for n in range(30)]
    right = compare(events, events)
    assert right.wrong_cells == right.lost == right.doubled == right.wrong_sequences == 0
    assert right.cells > 20
    assert right.sequences == 6
    missing = compare(events, events[:-1])
    assert missing.lost > 0
    assert missing.doubled == 0
    assert missing.wrong_sequences == 2
    doubled = compare(events, [*events, replace(events[0], event_id="again")])
    assert doubled.doubled > 0
    assert doubled.wrong_sequences == 2
