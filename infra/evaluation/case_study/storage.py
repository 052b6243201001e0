"""Bytes of the same events as row-oriented JSON and as the lake stores them."""

import gzip
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import orjson

from infra.evaluation.case_study.rows import Measured
from infra.evaluation.case_study.section import Found
from recsys.lake.lake import DAY_PREFIX, EVENTS, read_events
from recsys.simulation.history import HistoryConfig, write_history
from recsys.simulation.world import WorldConfig, create_world

_MILLION = 1_000_000


@dataclass(frozen=True)
class Lake:
    """The lake's row, and as a part what gzip of the JSON alone would save.

    *Before*: a line of JSON per event, as on the topic. *After*: the lake's Parquet with zstd.
    """

    name: ClassVar[str] = "lake"
    seed: int
    users: int = 2_000
    items: int = 2_000
    days: int = 7

    def measure(self) -> Found:
        world = create_world(WorldConfig(seed=self.seed, users=self.users, items=self.items, days=self.days))
        with tempfile.TemporaryDirectory(prefix="recsys-case-") as folder:
            lake = Path(folder)
            written = write_history(world, lake, HistoryConfig(days=self.days))
            packed = sum(path.stat().st_size for path in (lake / EVENTS).glob(f"{DAY_PREFIX}*/*.parquet"))
            lines = [orjson.dumps(event.to_dict()) + b"\n" for event in read_events(lake)]
        zipped = len(gzip.compress(b"".join(lines), compresslevel=6, mtime=0))
        unit, scale = "bytes per million events", _MILLION / written.events
        how = f"{written.events} events of a simulated shop, seed {self.seed}"
        plain, columns = sum(map(len, lines)) * scale, packed * scale
        return Found(
            [
                Measured("storage", plain, columns, unit, how, exact=True),
                Measured("storage", zipped * scale, columns, unit, how, "against JSON with gzip", exact=True),
            ]
        )
