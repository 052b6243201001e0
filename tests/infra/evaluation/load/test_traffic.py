"""Traffic: reproducible, skewed as configured, sent when due regardless of the answers."""

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence
from itertools import islice

import httpx
import msgspec
import numpy as np
import pytest

from infra.evaluation.load.traffic import drive, http_target, kafka_target, traffic_events, zipf
from recsys.contracts.errors import Unavailable
from recsys.contracts.events import Event, parse_event
from recsys.contracts.types import EventType, Item, Topic
from tests.memory_event_log import MemoryEventLog

ITEMS = [Item(f"i{n}", categories=("A", "B"), creator="c") for n in range(50)]


def events(count: int, seed: int = 0) -> list[Event]:
    return list(islice(traffic_events(ITEMS, users=100, seed=seed, now_ms=lambda: 1_700_000_000_000), count))


def test_the_same_seed_gives_the_same_events_and_another_one_others() -> None:
    assert events(3_000) == events(3_000)
    assert not {e.event_id for e in events(3_000)} & {e.event_id for e in events(3_000, seed=1)}
    assert len({e.event_id for e in events(3_000)}) == 3_000


def test_events_keep_the_contract() -> None:
    for event in events(500):
        assert parse_event(event.to_dict()) == event
        assert event.categories == ("A", "B")
        assert (event.value is not None) == (event.type in (EventType.DWELL, EventType.PURCHASE))


def test_popularity_follows_zipf() -> None:
    shares = zipf(50, 1.1)
    assert shares.sum() == pytest.approx(1)
    assert shares[0] / shares[9] == pytest.approx(10**1.1)
    counts = Counter(e.item_id for e in events(20_000))
    found = np.array([counts[item.item_id] for item in ITEMS]) / 20_000
    assert np.abs(found - shares).max() < 5 * np.sqrt(0.25 / 20_000)


def test_each_event_is_due_at_its_time_and_late_answers_do_not_slow_the_load() -> None:
    """A clock that stands still for two seconds in the middle: what was due then follows at once, and is late."""
    now, released = [0.0], asyncio.Event()
    batches: list[int] = []

    async def target(batch: Sequence[Event]) -> None:
        batches.append(len(batch))
        if len(batches) == 20:
            now[0] += 2.0
        if sum(batches) == 400:
            released.set()
        await released.wait()  # nobody is answered before the last one is sent

    def monotonic() -> float:
        now[0] += 0.01
        return now[0]

    sent = asyncio.run(drive(target, iter(events(400)), rate=100.0, count=400, monotonic=monotonic))
    assert (sent.accepted, sent.refused) == (400, 0)
    assert max(batches) >= 200
    assert max(sent.seconds) > 3.5, "the first was answered after the last was due"
    assert min(sent.seconds) >= 0


def test_what_is_not_taken_is_counted() -> None:
    async def target(batch: Sequence[Event]) -> None:
        raise Unavailable("full")

    sent = asyncio.run(drive(target, iter(events(10)), rate=1e6, count=10))
    assert (sent.accepted, sent.refused) == (0, 10)


def test_it_stops_when_told() -> None:
    log, stop = MemoryEventLog(1), threading.Event()
    stop.set()
    assert asyncio.run(drive(kafka_target(log), iter(events(10)), 1e6, 10, stop)).accepted == 0


def test_into_the_log() -> None:
    log = MemoryEventLog(1)
    asyncio.run(drive(kafka_target(log), iter(events(100)), rate=1e6, count=100))
    found = [parse_event(msgspec.json.decode(r.value)) for r in log.read(Topic.EVENTS, 0, 0, 1_000)]
    assert found == events(100)
    assert log.read(Topic.EVENTS, 0, 0, 1)[0].key == found[0].user_id


@pytest.mark.parametrize(("status", "rejected", "accepted"), [(202, 0, 50), (202, 1, 0), (503, 0, 0)])
def test_over_http(status: int, rejected: int, accepted: int) -> None:
    bodies: list[dict[str, list[object]]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(msgspec.json.decode(request.content))
        return httpx.Response(status, json={"accepted": 0, "rejected": rejected, "results": []})

    async def run() -> int:
        transport = httpx.MockTransport(answer)
        async with httpx.AsyncClient(base_url="http://api", transport=transport) as client:
            return (await drive(http_target(client), iter(events(50)), 1e6, 50)).accepted

    assert asyncio.run(run()) == accepted
    assert [parse_event(raw) for body in bodies for raw in body["events"]] == events(50)


def test_no_server_is_a_refusal_not_a_crash() -> None:
    async def run() -> int:
        async with httpx.AsyncClient(base_url="http://127.0.0.1:9", timeout=5.0) as client:
            return (await drive(http_target(client), iter(events(5)), 1e6, 5)).refused

    assert asyncio.run(run()) == 5
