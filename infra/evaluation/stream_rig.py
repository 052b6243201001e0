"""A private Redis, a private broker and feature workers as processes, for benchmarks and fault-injection tests."""

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from infra.local.brokers import local_kafka
from infra.local.children import recsys_command
from infra.local.process import ChildProcess
from infra.local.redis import Persistence, RedisServer
from infra.local.redis_replicas import Failover, ReplicatedRedis
from recsys.contracts.errors import Unavailable
from recsys.contracts.event_log import EventSource, Record
from recsys.contracts.types import Topic
from recsys.features.definitions import FEATURES
from recsys.settings import LocalKafka, Settings
from recsys.store.base import StoreConfig
from recsys.store.redis import RedisFeatureStore
from streaming.log import KafkaSink, KafkaSource
from streaming.settings import Engine

TOPICS = (Topic.EVENTS, Topic.IMPRESSIONS)
PARTITIONS = 4
_OF_SPARK = ("PATH", "JAVA_HOME", "HOME", "RECSYS_SPARK_JARS", "RECSYS_SPARK_MASTER")
_STOP_S = 60.0  # Spark's takes some seconds
EVERY = [(topic, partition) for topic in TOPICS for partition in range(PARTITIONS)]
Offsets = dict[tuple[Topic, int], int]


class StreamRig:
    """A context manager. Workers are processes of the `recsys stream worker` command; their logs are in `home`."""

    def __init__(
        self,
        persistence: Persistence = Persistence.NONE,
        environ: Mapping[str, str] | None = None,
        engine: Engine = Engine.WORKER,
        failover: Failover | None = None,
    ) -> None:
        """`environ`: more settings of the workers. `engine`: of the workers; Spark's needs Apache Kafka. `failover`:
        Redis servers that replicate, without persistence, instead of one."""
        self._persistence = persistence
        self._engine = engine
        self._failover = failover
        self.replicated: ReplicatedRedis | None = None
        self._environ = dict(environ or {})
        self._settings = Settings()
        if engine is Engine.SPARK:
            self._environ |= {name: os.environ[name] for name in _OF_SPARK if name in os.environ}
            self._settings = self._settings.model_copy(update={"local_kafka": LocalKafka.APACHE})
        self._open = ExitStack()
        self.workers: list[ChildProcess] = []  # all ever started
        self._running: list[ChildProcess] = []

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            self.home = Path(opening.enter_context(tempfile.TemporaryDirectory(prefix="recsys-rig-")))
            if self._failover is None:
                self.redis = opening.enter_context(RedisServer(self.home / "redis", self._persistence))
                self.redis_url = self.redis.url
            else:
                self.replicated = opening.enter_context(self._failover.servers())
                self.redis_url = self.replicated.url
            self.kafka = opening.enter_context(
                local_kafka(self.home / "kafka", PARTITIONS, settings=self._settings)
            )
            self.sink = KafkaSink(self.kafka.connection)
            opening.callback(self.sink.close)
            self.source = KafkaSource(self.kafka.connection)
            opening.callback(self.source.close)
            self.store = RedisFeatureStore(self.redis_url, FEATURES, StoreConfig(PARTITIONS))
            opening.callback(self.store.close)
            opening.callback(self._stop_workers)
            self._open = opening.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def start_worker(self, *command: str, namespace: str = "recsys") -> ChildProcess:
        """A feature worker, or another program that takes the same settings."""
        environ = {
            "RECSYS_REDIS_URL": self.redis_url,
            "RECSYS_REDIS_NAMESPACE": namespace,
            "RECSYS_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            "RECSYS_KAFKA_TOPIC_PREFIX": self.kafka.connection.topic_prefix,
            "RECSYS_PARTITIONS": str(PARTITIONS),
            "RECSYS_HOME": str(self.home),
            **self._environ,
        }
        log = self.home / f"worker-{len(self.workers)}.log"
        worker = ChildProcess(
            list(command) or recsys_command("stream", "worker", "--engine", self._engine, "--json"),
            log,
            environ=environ,
        )
        self.workers.append(worker)
        self._running.append(worker)
        return worker

    def stop_worker(self, worker: ChildProcess) -> None:
        """SIGTERM."""
        self._running.remove(worker)
        worker.stop(_STOP_S)

    def kill_worker(self, worker: ChildProcess) -> None:
        """kill -9."""
        self._running.remove(worker)
        worker.kill()

    def worker_logs(self) -> str:
        """The logs of all workers."""
        return "".join(path.read_text(encoding="utf-8") for path in sorted(self.home.glob("worker-*.log")))

    def partitions_stopped(self) -> int:
        """How often a worker stopped a partition, as for a damaged batch. Nobody here writes such."""
        return self.worker_logs().count("its partition stops")

    def offsets(self) -> Offsets:
        """How far the store is in each topic partition; empty while it is unavailable."""
        try:
            found = {where: self.store.checkpoint(*where) for where in EVERY}
        except Unavailable:
            return {}
        return {where: checkpoint.offset if checkpoint else 0 for where, checkpoint in found.items()}

    def applied(self) -> int:
        """Number of records that the store has passed."""
        return sum(self.offsets().values())

    def ends(self) -> Offsets:
        """The next offset of each topic partition."""
        return {where: self.source.end_offset(*where) for where in EVERY}

    def appended(self) -> int:
        """Number of records in the log."""
        return sum(self.ends().values())

    def wait_until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> float:
        """Seconds until the condition held.

        Raises:
            Unavailable: it did not hold in time (with the end of the workers' logs), or a worker ended by itself.
        """
        started = time.monotonic()
        while not condition():
            for worker in self._running:
                if not worker.alive:
                    raise Unavailable(f"{what}: a worker ended by itself: {worker.log_tail()}")
            if time.monotonic() - started > timeout_s:
                tails = "; ".join(worker.log_tail(2) for worker in self.workers)
                raise Unavailable(f"{what}: not within {timeout_s:.0f} s; workers: {tails}")
            time.sleep(0.05)
        return time.monotonic() - started

    def _stop_workers(self) -> None:
        for worker in self.workers:
            worker.stop()


@contextmanager
def stopped(pids: Iterable[int]) -> Iterator[None]:
    """SIGSTOP child processes and their children meanwhile."""
    groups = list(pids)
    for group in groups:
        os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        for group in groups:
            os.killpg(group, signal.SIGCONT)


def freeze(pid: int, seconds: float) -> None:
    """SIGSTOP a child process and its children for that long."""
    with stopped([pid]):
        time.sleep(seconds)


def records_between(
    source: EventSource, starts: Offsets, ends: Offsets, timeout_s: float
) -> Iterator[Record]:
    """Each record of the log from `starts` up to `ends`.

    Raises:
        Unavailable: they could not be read in time.
    """
    left = {where: end for where, end in ends.items() if end > starts.get(where, 0)}
    for topic, partition in left:
        source.seek(topic, partition, starts.get((topic, partition), 0))
    deadline = time.monotonic() + timeout_s
    while left:
        if time.monotonic() > deadline:
            raise Unavailable(f"records could not be read back in {timeout_s:.0f} s: {sorted(left)}")
        for record in source.poll(0.5, 2_000):
            where = (Topic(record.topic), record.partition)
            if record.offset < left.get(where, 0):
                yield record
        left = {where: end for where, end in left.items() if source.position(*where) < end}
