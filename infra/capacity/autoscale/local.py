"""A pool of feature workers for the servers that the settings name."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager

from infra.capacity.autoscale.manifests import worker_policy
from infra.capacity.autoscale.pool import Backlog, WorkerPool
from infra.local.children import recsys_command
from infra.local.process import ChildProcess
from infra.sizing_table import SizingTable
from recsys.contracts.types import Topic
from streaming.log import KafkaSource
from streaming.settings import StreamSettings
from streaming.worker.process import open_store


@contextmanager
def worker_pool(
    settings: StreamSettings, least: int, most: int, table: SizingTable, accept_gap: bool = False
) -> Iterator[WorkerPool]:
    """Worker N writes to `<home>/logs/worker-N.log` and has the metrics port of the settings, if there is one, plus N.
    Raises `Unavailable`: Kafka or Redis does not answer."""
    command = recsys_command("stream", "worker", *(["--accept-gap"] if accept_gap else []))
    port = settings.worker_metrics_port

    def start(number: int) -> ChildProcess:
        environ = os.environ | ({"RECSYS_WORKER_METRICS_PORT": str(port + number)} if port else {})
        return ChildProcess(command, settings.home / "logs" / f"worker-{number}.log", environ=environ)

    weights = {Topic.EVENTS: 1.0, Topic.IMPRESSIONS: float(table.impressions_per_request)}
    policy = worker_policy(table, least, most, settings.partitions)
    with (
        closing(open_store(settings)) as store,
        closing(KafkaSource(settings.kafka)) as source,
        WorkerPool(policy, Backlog(source, store, weights), start) as pool,
    ):
        yield pool
