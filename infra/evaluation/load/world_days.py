"""Play days of a simulated world against an API, and publish the simulated time for it."""

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx

from infra.evaluation.load.visitors import Population, VisitConfig, Visits, figures, play_day
from recsys.client import AsyncClient, Retry
from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR
from recsys.simulation.clock import CLOCK_FILE, LEAD_S, WorldClock, wall_ms, write_clock
from recsys.simulation.world import create_world, read_world


async def play_days(
    api: str, world: Path, config: VisitConfig, days: int, stop: threading.Event
) -> dict[str, float]:
    """Play `days` days from `config.day` on, or until `stop`.

    Raises:
        InvalidConfig: no API is given, or the file is not a world.
    """
    if not api:
        raise InvalidConfig("visitors need an API: add --api http://127.0.0.1:8000")
    population = Population(create_world(read_world(world)))
    clock = world.with_name(CLOCK_FILE)
    first_ms = population.world.config.start_ms + config.day * MS_PER_DAY
    until_ms = first_ms + days * MS_PER_DAY + MS_PER_HOUR
    limits = httpx.Limits(max_connections=512, max_keepalive_connections=512)
    transport = httpx.AsyncHTTPTransport(limits=limits)
    visits = Visits()
    async with AsyncClient(api, timeout_s=10.0, retry=Retry(attempts=2), transport=transport) as client:
        began = time.monotonic()
        for day in range(days):
            begins = WorldClock(
                wall_ms=wall_ms() + round(LEAD_S * 1e3),
                world_ms=first_ms + day * MS_PER_DAY,
                speed=86_400 / config.day_s,
                until_ms=until_ms,
            )
            write_clock(clock, begins)
            await asyncio.sleep(LEAD_S)
            visits.add(await play_day(client, population, replace(config, day=config.day + day), stop))
            if stop.is_set():
                break
        took_s = time.monotonic() - began
    now_ms = begins.at(wall_ms())
    write_clock(clock, WorldClock(wall_ms=wall_ms(), world_ms=now_ms, speed=0, until_ms=now_ms))
    return figures(visits, took_s)
