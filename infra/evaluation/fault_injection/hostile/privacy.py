"""An attack on forgetting: records of the user that are still under way when the request comes."""

import time
from pathlib import Path

import msgspec

from infra.evaluation.fault_injection.hostile.attacks import Attack, Broken
from infra.evaluation.stream_rig import StreamRig
from recsys.contracts.events import Event
from recsys.contracts.time_rules import TimeRules
from recsys.contracts.types import MS_PER_MINUTE, EventType, Topic
from recsys.store.forgetting import forget
from recsys.store.redis_client import connect

_USER = "somebody-77"
_PATIENCE_S = 30.0
_encode = msgspec.json.Encoder().encode


def events_under_way(home: Path) -> str:
    """The worker is down, events of the user wait in Kafka, one of them of a clock four minutes ahead."""
    with StreamRig() as rig:
        worker, now_ms = rig.start_worker(), time.time_ns() // 1_000_000
        _send(rig, [_click(now_ms - 1)])
        rig.stop_worker(worker)
        _send(rig, [_click(now_ms), _click(now_ms + 4 * MS_PER_MINUTE)], wait=False)

        def bury(key: str) -> None:
            rig.sink.append(Topic.USERS, key, b"")

        had = forget(
            rig.store,
            home / "lake",
            bury,
            bury,
            _USER,
            time.time_ns() // 1_000_000,
            TimeRules(),
        )
        rig.start_worker()
        _send(rig, [_click(now_ms, "other")])
        with connect(rig.redis.url) as redis:
            left = [key for key in redis.scan_iter() if _USER.encode() in key]
    if not had or left:
        raise Broken(f"the user is back in {', '.join(map(str, left)) or 'no key, but was never there'}")
    return "the worker dropped the user's events that it read afterwards; the id is in no key of Redis"


def _click(at_ms: int, user: str = _USER) -> Event:
    return Event(f"click-{at_ms}", EventType.CLICK, user, "i", at_ms)


def _send(rig: StreamRig, events: list[Event], wait: bool = True) -> None:
    for event in events:
        rig.sink.append(Topic.EVENTS, event.user_id, _encode(event.to_dict()))
    rig.sink.flush()
    if wait:
        rig.wait_until(lambda: rig.applied() >= rig.appended(), _PATIENCE_S, "applying the events")


ATTACKS: tuple[Attack, ...] = (
    Attack(
        "security",
        "a user is forgotten while events of that user wait in Kafka, one of a clock that is ahead",
        "the worker applied them afterwards: the user was back in Redis until the command was repeated",
        events_under_way,
    ),
)
