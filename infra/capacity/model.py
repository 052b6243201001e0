"""What a load needs and costs: processes, memory, partitions, bytes. Arithmetic on measured figures.

The table (`infra/capacity/sizing.yaml`) says what one process did and what hardware costs; samples that are really
stored say how large states, events and processes are.
"""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import orjson
import pyarrow.parquet as pq

from infra.capacity import size, size_process
from infra.evaluation.load.traffic import synthetic_items, traffic_events
from infra.sizing_table import SizingTable
from recsys.lake.lake import COMPRESSION, events_table
from recsys.store.base import StoreConfig

DAYS = 30  # of activity in the online store
MOST_PER_WORKER = 4  # partitions per worker at the planned load: room to grow fourfold
_SAMPLE_EVENTS = 3_000
# applied to a private Redis at most, twice: half a minute each on a busy machine
_SAMPLE_STATE_EVENTS = 200_000
_LEAST_USERS = 20  # in that sample
_RECORD_BYTES = 70  # Kafka's overhead per record in a batch: offsets, times, key
_GIB = 2**30


@dataclass(frozen=True)
class Load:
    """`qps`: recommendations per second at the peak. `events_per_day`: without impressions."""

    qps: float
    users: int
    items: int
    events_per_day: float


@dataclass(frozen=True)
class Unit:
    """Measured bytes."""

    redis: float  # the whole online store
    api_process: float
    event_in_log: float
    event_in_lake: float


@dataclass(frozen=True)
class Plan:
    """What to run. Bytes are of all replicas together; cost is per month, in the table's currency."""

    api_processes: int
    worker_processes: int
    partitions: int
    events_per_s_at_peak: float
    api_memory_bytes: float  # of each process
    redis_bytes: float
    kafka_bytes: float
    lake_bytes: float
    cores: float
    cost: float


def measure_units(load: Load, table: SizingTable, config: StoreConfig, seed: int = 0) -> Unit:
    """Sample everything that has a size. Takes about a minute: two processes and a private Redis, filled twice."""
    per_user = max(1, round(_applied_per_day(load, table) * DAYS / load.users))
    log, lake = event_bytes(seed)
    population = size.Population(load.users, load.items, per_user, DAYS, seed)
    stored = min(size.SAMPLE_USERS, max(_LEAST_USERS, _SAMPLE_STATE_EVENTS // per_user))
    return Unit(
        redis=size.predict(population, config, stored).total,
        api_process=size_process.predict(load.items),
        event_in_log=log,
        event_in_lake=lake,
    )


def event_bytes(seed: int = 0, sample: int = _SAMPLE_EVENTS) -> tuple[float, float]:
    """Bytes of one event in the log (JSON, uncompressed) and in the lake (Parquet and zstd)."""
    events = list(
        islice(traffic_events(synthetic_items(2_000, seed), users=10_000, skew=1.1, seed=seed), sample)
    )
    log = sum(len(orjson.dumps(event.to_dict())) for event in events) / len(events) + _RECORD_BYTES
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.parquet"
        pq.write_table(events_table(events), path, compression=COMPRESSION)
        return log, path.stat().st_size / len(events)


def _applied_per_day(load: Load, table: SizingTable) -> float:
    """Events per day, impressions included."""
    shown = load.qps / table.peak_factor * 86_400 * table.impressions_per_request
    return load.events_per_day + shown


def plan(load: Load, table: SizingTable, unit: Unit) -> Plan:
    """Compute what the load needs."""
    applied_per_day = _applied_per_day(load, table)
    at_peak = applied_per_day / 86_400 * table.peak_factor
    api = max(2, math.ceil(load.qps / (table.measured.requests_per_s * table.utilisation)))
    workers = max(2, math.ceil(at_peak / (table.measured.events_per_s * table.utilisation)))
    redis = unit.redis * table.redis_headroom * table.redis_replicas
    kafka = applied_per_day * table.kafka_days * unit.event_in_log * table.kafka_replicas
    lake = applied_per_day * table.lake_days * unit.event_in_lake
    cores = api + workers + 1 + table.redis_replicas * max(1, workers / 2) + table.kafka_replicas
    memory_gib = (api * unit.api_process + redis) / _GIB + 0.5 * (workers + 1) + 2 * table.kafka_replicas
    prices = table.prices
    return Plan(
        api_processes=api,
        worker_processes=workers,
        partitions=max(4, 2 ** math.ceil(math.log2(workers * MOST_PER_WORKER))),
        events_per_s_at_peak=at_peak,
        api_memory_bytes=unit.api_process,
        redis_bytes=redis,
        kafka_bytes=kafka,
        lake_bytes=lake,
        cores=cores,
        cost=cores * prices.core
        + memory_gib * prices.memory_gib
        + kafka / _GIB * prices.disk_gib
        + lake / _GIB * prices.object_gib,
    )


def as_mapping(found: Plan) -> Mapping[str, float]:
    """The plan's fields, rounded: bytes to whole numbers."""
    return {
        name: value if isinstance(value, int) else round(value, None if name.endswith("_bytes") else 2)
        for name, value in asdict(found).items()
    }
