"""Attacks on the event log: foreign codecs, damaged batches, values that are none, a log that is away."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from infra.evaluation.fault_injection.foreign_batches import DAMAGES, Codec, append_batch, batch, bomb
from infra.evaluation.fault_injection.hostile.attacks import Attack, Broken
from infra.local.brokers import local_kafka
from infra.local.children import Children, recsys_command
from infra.local.kafka import KafkaBroker
from infra.local.process import ChildProcess, free_port
from infra.local.redis import RedisServer
from recsys.contracts.changes import ItemChange
from recsys.contracts.event_log import remembered_partition_of
from recsys.contracts.events import Event, new_id
from recsys.contracts.types import EventType, Item, Topic
from recsys.features.definitions import FEATURES
from recsys.lake.lake import read_events
from recsys.observability.worker_report import read_report
from recsys.store.base import StoreConfig
from recsys.store.redis import RedisFeatureStore
from streaming.lake_writer.commit import stopped_partitions
from streaming.log import KafkaSource
from streaming.log.dead_letter import read_dead_letters

PARTITIONS = 4
PATIENCE_S = 40.0
_STOP_S = 15.0


class Stream:
    """A private broker and Redis; worker and archiver are processes of the `recsys` command."""

    def __init__(self, home: Path, redis: RedisServer, kafka: KafkaBroker, children: Children) -> None:
        self.home = home
        self.kafka = kafka
        self._children = children
        self._running: dict[str, ChildProcess] = {}
        self.store = RedisFeatureStore(redis.url, FEATURES, StoreConfig(PARTITIONS))

    def start(self) -> None:
        for name in ("worker", "archive"):
            self._running[name] = self._children.start(name, "stream", name)

    def click(self, user: str) -> bytes:
        event = Event(new_id(), EventType.CLICK, user, "item", time.time_ns() // 1_000_000)
        return msgspec.json.encode(event.to_dict())

    def append(self, user: str, values: list[bytes | None], codec: Codec = Codec.NONE) -> None:
        partition = remembered_partition_of(user, PARTITIONS)
        append_batch(self.kafka.connection, Topic.EVENTS, partition, batch(user, values, codec))

    def arrived(self, user: str) -> bool:
        return bool(self.store.user(user).histories.get("seen"))

    def archived(self, user: str) -> bool:
        return any(event.user_id == user for event in read_events(self.home / "lake"))

    def says(self, name: str, what: str) -> bool:
        return what in (self.home / f"{name}.log").read_text()

    def problems(self) -> list[str]:
        """What the workers' reports name; /readyz repeats it."""
        reports = (read_report(content) for content in self.store.reports().values())
        return [problem for report in reports if report for problem in report.problems]

    def recsys(self, *arguments: str) -> None:
        environ = os.environ | self._children.environ
        done = subprocess.run(recsys_command(*arguments), env=environ, capture_output=True, check=False)
        if done.returncode:
            raise Broken(f"recsys {' '.join(arguments)}: {done.stderr.decode()[-300:]}")

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            ended = [name for name, process in self._running.items() if not process.alive]
            if ended or time.monotonic() > deadline:
                tails = {name: process.log_tail(2) for name, process in self._running.items()}
                raise Broken(f"not within {PATIENCE_S:.0f} s: {what}; ended: {ended}; logs: {tails}")
            time.sleep(0.1)

    def terminate(self) -> float:
        """SIGTERM to all; returns how long the slowest took."""
        began = time.monotonic()
        for process in self._running.values():
            os.kill(process.pid, signal.SIGTERM)
        while alive := [name for name, process in self._running.items() if process.alive]:
            if time.monotonic() - began > _STOP_S:
                raise Broken(f"deaf to SIGTERM for {_STOP_S:.0f} s: {alive}")
            time.sleep(0.05)
        return time.monotonic() - began


@contextlib.contextmanager
def stream(folder: Path, start_kafka: bool = True) -> Iterator[Stream]:
    redis, kafka = RedisServer(folder / "redis"), local_kafka(folder / "kafka", PARTITIONS, free_port())
    environ = {
        "RECSYS_HOME": str(folder),
        "RECSYS_REDIS_URL": redis.url,
        "RECSYS_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "RECSYS_PARTITIONS": str(PARTITIONS),
        "RECSYS_ARCHIVE_MAX_SECONDS": "1",
    }
    with redis, contextlib.closing(kafka), Children(folder, environ) as children:
        if start_kafka:
            kafka.start()
        yield Stream(folder, redis, kafka, children)


def foreign_codecs(folder: Path) -> str:
    with stream(folder) as s:
        s.start()
        users = {codec: f"user-{codec.name}" for codec in Codec}
        for codec, user in users.items():
            s.append(user, [s.click(user)] * 3, codec)
        for user in users.values():
            s.wait(f"the features of {user}", partial(s.arrived, user))
            s.wait(f"the rows of {user}", partial(s.archived, user))
    return f"{', '.join(codec.name.lower() for codec in Codec)} are read by worker and archiver"


def damaged_batches(folder: Path) -> str:
    """Each kind of damage in a partition of its own; the fourth stays whole."""
    users = {remembered_partition_of(f"u{n}", PARTITIONS): f"u{n}" for n in range(100)}
    with stream(folder) as s:
        s.start()
        for partition, damage in enumerate(DAMAGES):
            s.append(users[partition], [s.click(users[partition])])
            append_batch(s.kafka.connection, Topic.EVENTS, partition, damage(batch("k", [b"{}"] * 2)))
            s.append(users[partition], [s.click(users[partition])])
        s.append(users[3], [s.click(users[3])])
        for user in users.values():
            s.wait("the healthy partition, and what comes before a damage", partial(s.arrived, user))
        s.wait("the workers' reports name the partitions", lambda: len(s.problems()) == len(DAMAGES))
        s.wait("the archiver names them", lambda: len(stopped_partitions(s.home / "lake")) == len(DAMAGES))
        for partition in range(len(DAMAGES)):
            s.recsys("stream", "skip", Topic.EVENTS, str(partition), "1")
        s.wait("what comes after the damage", lambda: s.problems() == [])
        s.wait("the archiver continues", lambda: stopped_partitions(s.home / "lake") == [])
        s.wait("the offsets behind it", lambda: all(_offset(s, p) == 4 for p in range(len(DAMAGES))))
        with contextlib.closing(KafkaSource(s.kafka.connection)) as source:
            letters = [letter for letter in read_dead_letters(source) if letter.kind == "unreadable"]
        if len(letters) != len(DAMAGES):
            raise Broken(f"{len(letters)} dead letters, expected {len(DAMAGES)}")
        took = s.terminate()
    return f"three partitions stop by name, one continues; skipped, all continue; SIGTERM ends both in {took:.1f} s"


def inflating_batch(folder: Path) -> str:
    users = {remembered_partition_of(f"u{n}", PARTITIONS): f"u{n}" for n in range(100)}
    user, other = users[0], users[1]
    partition = remembered_partition_of(user, PARTITIONS)
    with stream(folder) as s:
        s.start()
        raw = bomb(Codec.ZSTD)
        append_batch(s.kafka.connection, Topic.EVENTS, partition, raw)
        s.append(user, [s.click(user)])
        s.append(other, [s.click(other)])
        s.wait("another partition", partial(s.arrived, other))
        s.wait("the worker names the partition", lambda: any("inflates" in found for found in s.problems()))
        s.recsys("stream", "skip", Topic.EVENTS, str(partition), "0")
        s.wait("what comes after it", partial(s.arrived, user))
    return f"{len(raw) / 1_000:.0f} kB that stand for 96 MiB stop their partition by name, and are skipped"


def _offset(s: Stream, partition: int) -> int:
    checkpoint = s.store.checkpoint(Topic.EVENTS, partition)
    return checkpoint.offset if checkpoint else 0


def terminated_while_stopped(folder: Path) -> str:
    with stream(folder) as s:
        s.start()
        append_batch(s.kafka.connection, Topic.EVENTS, 1, DAMAGES[0](batch("k", [b"{}"])))
        s.wait("the worker names the partition", lambda: len(s.problems()) == 1)
        s.wait("the archiver names it", lambda: len(stopped_partitions(s.home / "lake")) == 1)
        took = s.terminate()
    return f"SIGTERM at a damaged batch ends both in {took:.1f} s"


def terminated_without_a_broker(folder: Path) -> str:
    with stream(folder) as s:
        s.start()
        s.append("u", [s.click("u")])
        s.wait("the first event", lambda: s.arrived("u"))
        s.kafka.kill()
        time.sleep(1.0)  # into the outage
        took = s.terminate()
    return f"SIGTERM while the broker is away ends both in {took:.1f} s"


def started_before_the_broker(folder: Path) -> str:
    with stream(folder, start_kafka=False) as s:
        s.start()
        for name in ("worker", "archive"):
            s.wait(f"{name} says what it waits for", partial(s.says, name, "waits for Kafka"))
        s.kafka.start()
        s.append("u", [s.click("u")])
        s.wait("the first event's features", lambda: s.arrived("u"))
        s.wait("the first event's row", lambda: s.archived("u"))
    return "both wait, say for what, and start when Kafka does"


def values_that_are_none(folder: Path) -> str:
    with stream(folder) as s:
        item = ItemChange("i", Item("i", title="there"), 1)
        where = remembered_partition_of("i", PARTITIONS)
        s.start()
        content = batch("i", [msgspec.json.encode(item.to_dict())])
        append_batch(s.kafka.connection, Topic.ITEMS, where, content)
        s.wait("the item", lambda: dict(s.store.catalogue(["i"])).get("i") is not None)
        append_batch(s.kafka.connection, Topic.ITEMS, where, batch("i", [None]))
        s.wait("the item is deleted", lambda: dict(s.store.catalogue(["i"])).get("i") is None)
        s.append("u", [None, b"", os.urandom(200), s.click("u")])
        s.wait("the event after records without a value", lambda: s.arrived("u"))
    return "a tombstone deletes its item; a null event is a dead letter, the event behind it counts"


ATTACKS = (
    Attack("streams", "a foreign producer compresses with gzip, snappy, lz4, zstd",
           "snappy and lz4: worker and archiver spin, every partition stops, nothing is logged", foreign_codecs),
    Attack("streams", "bad checksum, broken content and unknown record format in three of four partitions",
           "worker and archiver spin, every partition stops, no command helps", damaged_batches),
    Attack("streams", "a small batch that inflates to 96 MiB", "held in memory as a whole, whatever its size",
           inflating_batch),
    Attack("streams", "SIGTERM while a batch cannot be read", "never seen: kill -9", terminated_while_stopped),
    Attack("streams", "SIGTERM while the broker is away", "both end", terminated_without_a_broker),
    Attack("streams", "worker and archiver start before Kafka", "both exit with an error", started_before_the_broker),
    Attack("streams", "records without a value, and random bytes",
           "the tombstone of an item is a dead letter, and the item stays", values_that_are_none),
)  # fmt: skip
