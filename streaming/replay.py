"""Replay: send the lake's events through the event log in event-time order.

Each record carries the header `replay`, so the archiver does not write it a second time. A position file makes a
replay resumable: it names the log and the last acknowledged event.
"""

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from recsys.contracts.errors import InvalidData
from recsys.contracts.event_log import EventSink
from recsys.contracts.events import Event
from recsys.contracts.types import MS_PER_SECOND, Topic
from recsys.files import atomic_write
from recsys.lake.forget import forgotten_users, is_forgotten
from recsys.lake.lake import day_of, read_events
from recsys.operator_files import read_json
from streaming.acceptance import REPLAY_HEADER

ACKNOWLEDGE_EVERY = 20_000
ACKNOWLEDGE_TIMEOUT_S = 60.0

Place = tuple[int, str, str]  # event time, event id, user: the lake's order
_START: Place = (0, "", "")
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Replayed:
    events: int
    seconds: float

    @property
    def events_per_s(self) -> float:
        return self.events / self.seconds if self.seconds else 0.0


class _Position(msgspec.Struct):
    log_id: str
    event_time_ms: int
    event_id: str
    user_id: str = ""


class Position:
    """Progress of a replay into one log; a replaced log is replayed from the beginning."""

    def __init__(self, path: Path, log_id: str) -> None:
        self._path = path
        self._log_id = log_id

    def load(self) -> Place:
        """Of the last acknowledged event; (0, "", "") for none."""
        try:
            content = read_json(self._path, _Position, InvalidData)
        except FileNotFoundError:
            return _START
        except InvalidData as error:
            raise InvalidData(f"{error}; delete it to replay from the beginning") from error
        if content.log_id != self._log_id:
            return _START
        return content.event_time_ms, content.event_id, content.user_id

    def save(self, event_time_ms: int, event_id: str, user_id: str) -> None:
        place = {"event_time_ms": event_time_ms, "event_id": event_id, "user_id": user_id}
        atomic_write(self._path, json.dumps({"log_id": self._log_id} | place))

    def forget(self) -> None:
        """Restart from the beginning."""
        self._path.unlink(missing_ok=True)


def replay(
    lake: Path,
    sink: EventSink,
    position: Position,
    speed: float = 0.0,
    first_day: str = "",
    last_day: str = "9999",
    on_progress: Callable[[int], None] = lambda events: None,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Replayed:
    """Send the lake's events after `position` to the topic `events`, in its order. Events of forgotten
    users are skipped, even before a compaction has deleted them. `speed`: event seconds per second; 0 for as fast as
    possible. `on_progress` gets the number of acknowledged events.
    Raises `Unavailable`: the log stopped accepting events; the next run resumes there.
    Raises `InvalidData`: a record of a forgotten user cannot be read."""
    done, forgotten = position.load(), forgotten_users(lake)
    events = read_events(lake, max(first_day, day_of(done[0])), last_day)
    started, origin_ms, sent, last = monotonic(), None, 0, done

    def acknowledge() -> None:
        sink.flush(ACKNOWLEDGE_TIMEOUT_S)
        position.save(*last)
        on_progress(sent)

    for event in itertools.dropwhile(lambda e: _place(e) <= done, events):
        if is_forgotten(forgotten, event.user_id, event.event_time_ms):
            continue
        if speed > 0:
            origin_ms = event.event_time_ms if origin_ms is None else origin_ms
            due = started + (event.event_time_ms - origin_ms) / MS_PER_SECOND / speed
            if (wait := due - monotonic()) > 0:
                sleep(wait)
        sink.append(Topic.EVENTS, event.user_id, _encode(event.to_dict()), [(REPLAY_HEADER, b"1")])
        sent, last = sent + 1, _place(event)
        if sent % ACKNOWLEDGE_EVERY == 0:
            acknowledge()
    if sent:
        acknowledge()
    return Replayed(sent, monotonic() - started)


def _place(event: Event) -> Place:
    return event.event_time_ms, event.event_id, event.user_id
