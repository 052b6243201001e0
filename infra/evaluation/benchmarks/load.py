"""An open-loop load of recommendation requests from a process of its own.

A request is sent when it is due, whether or not earlier ones were answered, and its time counts from when it was due:
a server that pauses cannot hide it (Tene, "coordinated omission"). The client is a few lines of asyncio on plain
sockets: a full HTTP library would need more of the two cores than the server under test.
"""

import asyncio
import multiprocessing
import re
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import msgspec
import numpy as np
import uvloop

from infra.evaluation.load.traffic import zipf

_MAX_CONNECTIONS = 256
_DRAIN_S = 10.0
_ITEM_IDS = re.compile(rb'"item_id":"([^"]+)"').findall
EMPTY_LIST = -1  # counted as a failure: there is always something to show


@dataclass(frozen=True)
class Load:
    """`rate` requests per second for `seconds`, `event_share` of them right after an event of the same user.

    Users and items follow Zipf's law (exponent 1). `hot_share` of the requests repeat for only `hot` users, without
    events, so that a result cache can hit; the others carry the events, so that `event_share` stays the same.
    """

    port: int
    rate: float
    seconds: float
    users: int = 100_000
    items: int = 100_000
    k: int = 20
    event_share: float = 0.2
    hot: int = 0
    hot_share: float = 0.0
    seed: int = 0


@dataclass
class Answers:
    """`ms` of each answered recommendation from when it was due; `failed` by status (0: no answer, -1: an empty
    list)."""

    ms: list[float] = field(default_factory=list)
    failed: dict[int, int] = field(default_factory=dict)
    accepted_events: list[str] = field(default_factory=list)  # ids that were answered with 202
    refused_events: int = 0  # answered, but not with 202
    shown: int = 0  # items in all lists
    items: set[bytes] = field(default_factory=set)  # the different ones of them
    degraded: int = 0
    reasons: dict[str, int] = field(default_factory=dict)  # answers by stage named in `degraded`
    bad_at_s: list[float] = field(default_factory=list)  # when degraded and failed answers came
    took_s: float = 0.0
    cpu_s: float = 0.0  # of the generator itself
    late_ms: float = 0.0  # largest delay of the generator itself
    bytes: int = 0  # HTTP, both ways, events included

    @property
    def errors(self) -> int:
        return sum(self.failed.values())

    def percentile(self, q: float) -> float:
        return float(np.percentile(self.ms, q)) if self.ms else float("nan")

    @property
    def per_s(self) -> float:
        return len(self.ms) / self.took_s if self.took_s else 0.0


def run_load(load: Load) -> Answers:
    """Run it in another process and wait."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, load).result()


def _run(load: Load) -> Answers:
    return uvloop.run(_drive(load))


async def _drive(load: Load) -> Answers:
    rng = np.random.default_rng(load.seed)
    n = int(load.rate * load.seconds)
    due = np.cumsum(rng.exponential(1 / load.rate, n))  # Poisson arrivals
    user = rng.choice(load.users, n, p=zipf(load.users, 1.0))
    hot_share = load.hot_share if load.hot else 0.0
    hot = rng.random(n) < hot_share
    user[hot] = rng.integers(0, max(load.hot, 1), int(hot.sum()))
    item = rng.choice(load.items, n, p=zipf(load.items, 1.0))
    after_event = ~hot & (rng.random(n) * (1 - hot_share) < load.event_share)
    pool = _Pool(load.port)
    answers = Answers()
    cpu_before = time.process_time()
    tasks: set[asyncio.Task[None]] = set()
    began = time.perf_counter()
    for i in range(n):
        ahead = began + due[i] - time.perf_counter()
        if ahead > 0:
            await asyncio.sleep(ahead)
        answers.late_ms = max(answers.late_ms, -ahead * 1e3)
        event = f"item-{item[i]:07d}" if after_event[i] else None
        task = asyncio.create_task(_one(pool, load, answers, f"user-{user[i]}", event, began, due[i]))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        await asyncio.wait(tasks, timeout=_DRAIN_S)
    answers.took_s = time.perf_counter() - began
    answers.cpu_s = time.process_time() - cpu_before
    answers.bytes = pool.bytes
    for task in tasks:
        task.cancel()
        answers.failed[0] = answers.failed.get(0, 0) + 1
    pool.close()
    return answers


async def _one(
    pool: "_Pool", load: Load, answers: Answers, user: str, item: str | None, began: float, due: float
) -> None:
    sent_late = 0.0
    try:
        if item is not None:
            event_began = time.perf_counter()
            event = {"type": "click", "user_id": user, "item_id": item, "event_id": f"load-{load.seed}-{due}"}
            if (await pool.post(b"/v1/events", event))[0] == 202:
                answers.accepted_events.append(event["event_id"])
            else:
                answers.refused_events += 1
            sent_late = time.perf_counter() - event_began  # not part of the request's time
        status, body = await pool.post(b"/v1/recommendations", {"user_id": user, "k": load.k})
    except (OSError, EOFError, asyncio.IncompleteReadError):
        status, body = 0, b""
    now = time.perf_counter() - began
    if status == 200 and b'"items":[]' in body:
        status = EMPTY_LIST
    if status == 200:
        answers.ms.append((now - due - sent_late) * 1e3)
        ids = _ITEM_IDS(body)
        answers.shown += len(ids)
        answers.items.update(ids)
        if b'"degraded":[]' not in body:
            answers.degraded += 1
            for reason in msgspec.json.decode(body)["degraded"]:
                answers.reasons[reason] = answers.reasons.get(reason, 0) + 1
            answers.bad_at_s.append(now)
    else:
        answers.failed[status] = answers.failed.get(status, 0) + 1
        answers.bad_at_s.append(now)


class _Pool:
    """Keep-alive connections, as many as needed at once, used in turn so that every API process gets its share."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()
        self._free = asyncio.Semaphore(_MAX_CONNECTIONS)
        self.bytes = 0  # sent and received

    async def post(self, path: bytes, content: object) -> tuple[int, bytes]:
        body = msgspec.json.encode(content)
        async with self._free:
            if self._idle:
                reader, writer = self._idle.popleft()
            else:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                message = (
                    b"POST %b HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
                    b"content-length: %d\r\n\r\n%b" % (path, len(body), body)
                )
                writer.write(message)
                head = await reader.readuntil(b"\r\n\r\n")
                status = int(head[9:12])
                start = head.lower().index(b"content-length:") + 15
                answer = await reader.readexactly(int(head[start : head.index(b"\r", start)]))
            except BaseException:
                writer.close()
                raise
            self._idle.append((reader, writer))
            self.bytes += len(message) + len(head) + len(answer)
        return status, answer

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
