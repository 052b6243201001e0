"""A simulator's users as clients of the API: they view products, ask for one product at a time, click it or not.

As in `infra.evaluation.load.visitors` the load is open, visits run at once, and a visitor uses the public API alone.
Each step of a user is due at its time in the simulated world, which the API reads from the clock file.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from infra.evaluation.load.second_world.history import STEP_MS, user_id
from infra.evaluation.load.second_world.policies import Played
from infra.evaluation.load.second_world.world import ForeignWorld, Turn, item_id, product_of
from infra.evaluation.load.visitors import Lists
from recsys.client import AsyncClient, Retry
from recsys.client.calls import outcome
from recsys.client.models import ApiError
from recsys.contracts.errors import Unavailable
from recsys.contracts.types import MS_PER_DAY, EventType
from recsys.simulation.clock import LEAD_S, WorldClock, wall_ms, write_clock


@dataclass(frozen=True)
class Pace:
    """`span_ms`: of the simulated time within which the users begin; `speed`: simulated seconds per second."""

    start_ms: int
    span_ms: int
    speed: float


@dataclass
class Visits:
    """`played`, `arms`: by user, the arm being that of the answers; `shown`: products by arm."""

    played: dict[int, Played] = field(default_factory=dict)
    arms: dict[int, str] = field(default_factory=dict)
    shown: dict[str, set[int]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    refused: int = 0  # requests without an answer; their users leave
    degraded: int = 0
    late_s: float = 0.0  # most that a step was behind its time


@dataclass(frozen=True)
class Day:
    """The users of one day, and what the API's experiment calls them."""

    shop: Lists
    world: ForeignWorld
    pace: Pace
    experiment: str
    visits: Visits = field(default_factory=Visits)
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Any] = asyncio.sleep

    async def play(self, users: Sequence[int], seed: int) -> Visits:
        """Play all users' whole time. They begin at uniform times.

        Raises:
            Unavailable: the simulator has ended.
        """
        began = self.monotonic()
        offsets = np.sort(np.random.default_rng((seed, 1)).integers(self.pace.span_ms, size=len(users)))
        try:
            async with asyncio.TaskGroup() as visits:
                for user, offset_ms in zip(users, offsets.tolist(), strict=True):
                    visits.create_task(self._visit(user, offset_ms, began))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return self.visits

    async def _visit(self, user: int, offset_ms: int, began: float) -> None:
        async def until(step: int) -> int:
            """Wait for the user's step; returns its time in the world."""
            passed_ms = offset_ms + step * STEP_MS
            ahead_s = began + passed_ms / self.pace.speed / 1e3 - self.monotonic()
            if ahead_s > 0:
                await self.sleep(ahead_s)
            self.visits.late_s = max(self.visits.late_s, -ahead_s)
            return self.pace.start_ms + passed_ms

        await until(0)
        turn = self.world.begin(user)
        try:
            while True:
                await self._report_views(user, turn, until)
                if turn.done:
                    return
                turn = await self._show(user, turn, await until(turn.step))
        except (Unavailable, ApiError) as error:
            if isinstance(error, Unavailable) and not self.world.alive:
                raise
            self.visits.refused += 1

    async def _report_views(self, user: int, turn: Turn, until: Callable[[int], Any]) -> None:
        """Each session at its end, in one request."""
        if turn.views:
            times = [offset for offset, _ in turn.views]
            last_ms = await until(times[-1])
            await self.shop.send(
                [
                    _event(EventType.VIEW, user, product, last_ms - (times[-1] - at) * STEP_MS)
                    for at, product in turn.views
                ]
            )

    async def _show(self, user: int, turn: Turn, now_ms: int) -> Turn:
        """One product: the first of the list."""
        visits, began = self.visits, time.perf_counter()
        answer = await self.shop.recommend(user_id(user), 1)
        visits.seconds.append(time.perf_counter() - began)
        visits.degraded += bool(answer.degraded)
        if not answer.items:
            raise Unavailable(f"the list of {user_id(user)} is empty")
        product = product_of(answer.items[0].item_id)
        after = self.world.show(user, product)
        arm = visits.arms.setdefault(user, answer.arms.get(self.experiment, ""))
        visits.played.setdefault(user, Played()).add(turn, after)
        visits.shown.setdefault(arm, set()).add(product)
        if after.clicked:
            await self.shop.send([outcome(EventType.CLICK, answer, 0, event_time_ms=now_ms)])
        return after


def _event(kind: EventType, user: int, product: int, time_ms: int) -> dict[str, Any]:
    return {
        "type": str(kind),
        "user_id": user_id(user),
        "item_id": item_id(product),
        "event_time_ms": time_ms,
    }


async def play_over_http(
    api: str, world: ForeignWorld, users: Sequence[int], pace: Pace, clock: Path, experiment: str, seed: int
) -> Visits:
    """Start the world's clock and play the users against an API that reads it.

    Raises:
        Unavailable: the simulator has ended.
    """
    until_ms = pace.start_ms + pace.span_ms + MS_PER_DAY
    write_clock(
        clock,
        WorldClock(
            wall_ms=wall_ms() + round(LEAD_S * 1e3),
            world_ms=pace.start_ms,
            speed=pace.speed,
            until_ms=until_ms,
        ),
    )
    await asyncio.sleep(LEAD_S)
    transport = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=64))
    async with AsyncClient(api, timeout_s=10.0, retry=Retry(attempts=2), transport=transport) as client:
        return await Day(client, world, pace, experiment).play(users, seed)
