"""Bytes of the same events as row-oriented JSON and as the lake keeps them."""

import gzip
import tempfile
from pathlib import Path

import orjson

from infra.case_study.rows import Measured
from recsys.lake import DAY_PREFIX, EVENTS, read_events
from recsys.simulation.past import PastConfig, write_past
from recsys.simulation.world import WorldConfig, create_world

_MILLION = 1_000_000


def storage(users: int, items: int, days: int, seed: int) -> list[Measured]:
    """The lake's row, and beside it what an ordinary gzip of the JSON would have saved already.

    *Before*: a line of JSON an event, as on the topic. *After*: the lake's Parquet with zstd. The same seed gives the
    same bytes.
    """
    world = create_world(WorldConfig(seed=seed, users=users, items=items, days=days))
    with tempfile.TemporaryDirectory(prefix="recsys-case-") as folder:
        lake = Path(folder)
        written = write_past(world, lake, PastConfig(days=days))
        packed = sum(path.stat().st_size for path in (lake / EVENTS).glob(f"{DAY_PREFIX}*/*.parquet"))
        lines = [orjson.dumps(event.to_dict()) + b"\n" for event in read_events(lake)]
    plain = sum(map(len, lines))
    zipped = len(gzip.compress(b"".join(lines), compresslevel=6, mtime=0))
    per_million = _MILLION / written.events
    how = f"{written.events} events of a simulated shop, seed {seed}"
    return [
        Measured("storage", plain * per_million, packed * per_million, "bytes per million events", how),
        Measured(
            "storage",
            zipped * per_million,
            packed * per_million,
            "bytes per million events",
            how,
            "against JSON with gzip",
        ),
    ]
