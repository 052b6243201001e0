"""The control: a poller of "everything after the last number", alongside concurrent transactions. It must lose some.

Numbers are given out when a row is inserted, not when its transaction commits. Once the poller has seen a larger
number, it never asks for a smaller one that is committed later.
"""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa

from recsys.catalogue_db.tables import OUTBOX, lane_of

_SLOWEST_S = 0.02  # between a row's number and its commit: what else a transaction does
_POLL_S = 0.005


def lost_by_poller(engine: sa.Engine, changes: int, threads: int, seed: int) -> int:
    """Number of committed changes that the poller never sees. The outbox must be empty, and no relay must run."""
    writing = threading.Event()
    writing.set()
    with ThreadPoolExecutor(threads + 1) as pool:
        poller = pool.submit(_poll, engine, writing)
        writers = [
            pool.submit(_write, engine, changes // threads, random.Random(seed + t))  # noqa: S311
            for t in range(threads)
        ]
        committed = {number for writer in writers for number in writer.result()}
        writing.clear()
        return len(committed - poller.result())


def _write(engine: sa.Engine, changes: int, rng: random.Random) -> list[int]:
    """Commit that many changes, each in a transaction of its own. Returns their numbers."""
    numbers: list[int] = []
    for n in range(changes):
        key = f"item-{n}"
        row = {
            "lane": lane_of(key),
            "topic": "control",
            "key": key,
            "value": b"{}",
            "headers": [],
            "written_ms": 0,
        }
        with engine.begin() as connection:
            numbers += connection.execute(sa.insert(OUTBOX), row).inserted_primary_key or ()
            time.sleep(_SLOWEST_S * rng.random())
    return numbers


def _poll(engine: sa.Engine, writing: threading.Event) -> set[int]:
    seen: set[int] = set()
    last = 0
    while True:
        ends = not writing.is_set()  # before the last poll
        with engine.connect() as connection:
            new = connection.scalars(
                sa.select(OUTBOX.c.id).where(OUTBOX.c.id > last).order_by(OUTBOX.c.id)
            ).all()
        seen.update(new)
        last = max(new, default=last)
        if ends:
            return seen
        time.sleep(_POLL_S)
