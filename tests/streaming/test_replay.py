"""Replay: order, speed, and resuming without lost or repeated events."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from recsys.contracts.errors import Unavailable
from recsys.contracts.event_log import Record
from recsys.contracts.events import Event, derived_id, parse_event
from recsys.contracts.types import MS_PER_DAY, EventType, Topic
from recsys.lake.forget import mark_forgotten
from recsys.lake.lake import EVENTS, day_of, day_writer, events_table
from streaming import replay as replay_module
from streaming.acceptance import REPLAY_HEADER
from streaming.replay import Position, replay
from tests.memory_event_log import MemoryEventLog

START_MS = 1_700_000_000_000
STEP_MS = MS_PER_DAY // 10


class Log(MemoryEventLog):
    """One partition, and a flush that fails after `flushes`."""

    def __init__(self, flushes: int = 1_000_000) -> None:
        super().__init__(partitions=1)
        self.flushes = flushes

    def flush(self, timeout_s: float = 10.0) -> None:
        if self.flushes == 0:
            raise Unavailable("away")
        self.flushes -= 1

    def records(self) -> list[Record]:
        return self.read(Topic.EVENTS, 0, 0, 1_000_000)

    def events(self) -> list[Event]:
        return [parse_event(msgspec.json.decode(r.value)) for r in self.records()]


@pytest.fixture
def events(tmp_path: Path) -> Sequence[Event]:
    """35 events over four days, in the lake of `tmp_path`; pairs of them at the same time."""
    times = [START_MS + n // 2 * 2 * STEP_MS for n in range(35)]
    made = [Event(derived_id(t, n), EventType.CLICK, f"u{n % 3}", f"i{n}", t) for n, t in enumerate(times)]
    with day_writer(tmp_path, EVENTS, "x") as writer:
        writer.write(events_table(made[::-1]))
    return sorted(made, key=lambda e: (e.event_time_ms, e.event_id))


def position(tmp_path: Path, log_id: str = "log") -> Position:
    return Position(tmp_path / "run" / "replay.json", log_id)


def test_events_are_sent_in_time_order_keyed_by_user_with_the_header(
    tmp_path: Path, events: Sequence[Event]
) -> None:
    log = Log()
    assert replay(tmp_path, log, position(tmp_path)).events == len(events)
    assert log.events() == list(events)
    assert [r.key for r in log.records()] == [e.user_id for e in events]
    assert {r.headers for r in log.records()} == {((REPLAY_HEADER, b"1"),)}


@pytest.mark.parametrize("flushes", range(4))
def test_an_interrupted_replay_resumes_after_the_last_acknowledged_event(
    tmp_path: Path, events: Sequence[Event], monkeypatch: pytest.MonkeyPatch, flushes: int
) -> None:
    monkeypatch.setattr(replay_module, "ACKNOWLEDGE_EVERY", 10)
    log, progress = Log(flushes), list[int]()
    with pytest.raises(Unavailable):
        replay(tmp_path, log, position(tmp_path), on_progress=progress.append)
    assert progress == [10, 20, 30][:flushes]
    acknowledged, before = 10 * flushes, len(log.records())
    log.flushes = 1_000
    replay(tmp_path, log, position(tmp_path))
    assert log.events()[:before] == list(events[:before])
    assert log.events()[before:] == list(events[acknowledged:])


def test_a_finished_replay_sends_nothing_unless_the_log_was_replaced(
    tmp_path: Path, events: Sequence[Event]
) -> None:
    replay(tmp_path, Log(), position(tmp_path))
    assert replay(tmp_path, Log(), position(tmp_path)).events == 0
    assert replay(tmp_path, Log(), position(tmp_path, "another")).events == len(events)
    position(tmp_path, "another").forget()
    assert replay(tmp_path, Log(), position(tmp_path, "another")).events == len(events)


def test_events_of_forgotten_users_are_not_replayed(tmp_path: Path, events: Sequence[Event]) -> None:
    log, until_ms = Log(), events[17].event_time_ms
    mark_forgotten(tmp_path, "u1", until_ms)
    replay(tmp_path, log, position(tmp_path))
    kept = [e for e in events if e.user_id != "u1" or e.event_time_ms > until_ms]
    assert log.events() == kept != list(events)
    assert any(e.user_id == "u1" for e in kept)


def test_the_range_of_days_includes_both_ends(tmp_path: Path, events: Sequence[Event]) -> None:
    log, second = Log(), day_of(START_MS + MS_PER_DAY)
    replay(tmp_path, log, position(tmp_path), first_day=second, last_day=second)
    assert log.events() == [e for e in events if day_of(e.event_time_ms) == second] != []


def test_speed_is_event_seconds_per_second(tmp_path: Path, events: Sequence[Event]) -> None:
    now, sent_at = [100.0], list[float]()

    class Clocked(Log):
        def append(
            self, topic: str, key: str, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
        ) -> None:
            super().append(topic, key, value, headers)
            sent_at.append(now[0])

    def sleep(seconds: float) -> None:
        now[0] += seconds

    speed = 86_400.0
    replay(tmp_path, Clocked(), position(tmp_path), speed, monotonic=lambda: now[0], sleep=sleep)
    expected = [100 + (e.event_time_ms - START_MS) / 1_000 / speed for e in events]
    assert sent_at == pytest.approx(expected)
