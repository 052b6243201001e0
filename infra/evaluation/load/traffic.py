"""Load generation: seeded event traffic at a fixed rate, through Kafka or over HTTP.

The load is open: an event is sent when it is due, whether or not earlier ones were answered. A generator that waits
for answers would hide exactly the pauses that a load test is to find (Tene, "coordinated omission"). Users and items
follow Zipf's law; everything but the clock comes from one seed.
"""

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import httpx
import msgspec
import numpy as np

from recsys.contracts.errors import Unavailable
from recsys.contracts.event_log import EventSink
from recsys.contracts.events import Event, derived_id, item_context
from recsys.contracts.types import EventType, Item, Topic

TICK_S = 0.005
_BLOCK = 1_024
CATEGORIES = ("Action", "Comedy", "Drama", "Horror", "Kids", "News", "Romance", "War")
_MIX = {  # how often each type occurs
    EventType.CLICK: 0.6,
    EventType.DWELL: 0.25,
    EventType.LIKE: 0.1,
    EventType.PURCHASE: 0.05,
}
_encode = msgspec.json.Encoder().encode


# Sends events: returns when they are accepted, raises `Unavailable` when they are not.
Target = Callable[[Sequence[Event]], Awaitable[None]]


@dataclass
class Sent:
    """Outcome of the due events; `seconds` from when each was due until it was accepted."""

    accepted: int = 0
    refused: int = 0
    seconds: list[float] = field(default_factory=list)


def synthetic_items(n: int, seed: int) -> list[Item]:
    """Items with one to three categories and one of n / 40 creators."""
    return [*iterate_synthetic_items(n, seed)]


def iterate_synthetic_items(n: int, seed: int) -> Iterator[Item]:
    """As `synthetic_items`, one at a time."""
    rng = random.Random(seed)  # noqa: S311
    for i in range(n):
        categories = tuple(rng.sample(CATEGORIES, rng.randint(1, 3)))
        yield Item(f"item-{i}", categories=categories, creator=f"c{rng.randrange(n // 40 + 1)}")


def traffic_events(
    items: Sequence[Item],
    users: int = 10_000,
    skew: float = 1.1,
    seed: int = 0,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> Iterator[Event]:
    """Endless events of the present. The k-th most popular user or item occurs in proportion to k^-skew."""
    rng = np.random.default_rng(seed)
    user_shares, item_shares = zipf(users, skew), zipf(len(items), skew)
    kinds = list(_MIX)
    number = 0
    while True:
        who = rng.choice(users, _BLOCK, p=user_shares)
        what = rng.choice(len(items), _BLOCK, p=item_shares)
        how = rng.choice(len(kinds), _BLOCK, p=list(_MIX.values()))
        amounts = rng.lognormal(9.0, 1.0, _BLOCK)  # dwell: median 8 s, in milliseconds
        for user, row, kind, amount in zip(who, what, how, amounts, strict=True):
            time_ms = now_ms()
            yield _event(number, seed, time_ms, f"traffic-{user}", items[row], kinds[kind], round(amount))
            number += 1


def zipf(size: int, skew: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """(size,) float64 shares that sum to 1, in proportion to rank^-skew."""
    weights = np.arange(1, size + 1, dtype=np.float64) ** -skew
    shares: np.ndarray[tuple[int], np.dtype[np.float64]] = weights / weights.sum()
    return shares


def _event(
    number: int, seed: int, time_ms: int, user_id: str, item: Item, kind: EventType, amount: float
) -> Event:
    return Event(
        event_id=derived_id(time_ms, "traffic", seed, number),
        type=kind,
        user_id=user_id,
        item_id=item.item_id,
        event_time_ms=time_ms,
        value=amount if kind in (EventType.DWELL, EventType.PURCHASE) else None,
        context=item_context({}, item.categories, item.creator),
    )


async def drive(
    target: Target,
    events: Iterator[Event],
    rate: float,
    count: int,
    stop: threading.Event | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Sent:
    """Send `count` events, or until `stop`; the n-th is due n / rate seconds after the start."""
    sent, started, taken = Sent(), monotonic(), 0
    waiting: set[asyncio.Task[None]] = set()

    async def send(batch: Sequence[Event], first: int) -> None:
        try:
            await target(batch)
        except Unavailable:
            sent.refused += len(batch)
            return
        now = monotonic() - started
        sent.accepted += len(batch)
        sent.seconds += [now - (first + n) / rate for n in range(len(batch))]

    while taken < count and not (stop and stop.is_set()):
        due = min(count, int((monotonic() - started) * rate) + 1) - taken
        if batch := list(islice(events, due)):
            task = asyncio.create_task(send(batch, taken))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            taken += len(batch)
        await asyncio.sleep(TICK_S)
    await asyncio.gather(*waiting)
    return sent


async def drive_http(
    api: str, events: Iterator[Event], rate: float, count: int, stop: threading.Event
) -> Sent:
    """Drive events into an API."""
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=api, timeout=10.0, limits=limits) as client:
        return await drive(http_target(client), events, rate, count, stop)


def kafka_target(sink: EventSink) -> Target:
    """Write straight to the topic `events`."""

    async def send(events: Sequence[Event]) -> None:
        for event in events:
            sink.append(Topic.EVENTS, event.user_id, _encode(event.to_dict()))

    return send


def http_target(client: httpx.AsyncClient) -> Target:
    """`POST /v1/events`, with events that are due together in one request. `client` has the base URL."""

    async def send(events: Sequence[Event]) -> None:
        body = {"events": [_wire(event) for event in events]}
        try:
            answer = await client.post("/v1/events", content=_encode(body))
        except httpx.HTTPError as error:
            raise Unavailable(f"{client.base_url}: {type(error).__name__}: {error}") from error
        if answer.is_error or answer.json()["rejected"]:
            raise Unavailable(f"{client.base_url}: {answer.status_code} {answer.text[:200]}")

    return send


def _wire(event: Event) -> dict[str, object]:
    return {name: value for name, value in event.to_dict().items() if value is not None}
