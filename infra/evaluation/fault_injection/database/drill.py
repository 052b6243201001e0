"""Fault injection between the catalogue database and the store: kill parts under a write load, then compare.

1. Without faults: from the commit until an item can be recommended, and how many changes per second arrive.
2. Writers change items at a steady rate; relays, database, Redis and broker are killed in turns, each after changes
   have arrived since the last kill.
3. Every committed change must be in the topic, the changes of an item in order, and the store must equal the database.
4. The control, a poller of "everything after the last number", must lose changes, or the test proves nothing.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from pydantic import SecretStr

from infra.evaluation.fault_injection.database import Database
from infra.evaluation.fault_injection.database.check import delivered, wrong_in_store
from infra.evaluation.fault_injection.database.control import lost_by_poller
from infra.evaluation.fault_injection.database.latency import Recommendable
from infra.evaluation.fault_injection.database.load import Ledger, Writers
from infra.evaluation.stream_rig import PARTITIONS, StreamRig, freeze, records_between
from infra.local.children import recsys_command
from infra.local.databases import DatabaseServer, MariaDbServer, PostgresServer
from infra.local.redis import Persistence
from infra.terminal import console
from recsys.catalogue_db.connection import connect, database_url
from recsys.catalogue_db.database import CatalogueDatabase
from recsys.catalogue_db.migrate import upgrade
from recsys.contracts.errors import Unavailable
from recsys.contracts.types import Topic
from recsys.result import Goal, Result
from recsys.settings import Settings
from serving.engine.item_feed import ItemFeed
from streaming.settings import RelayOrder

RELAYS = 2
_TIMEOUT_S = 300.0
_FROZEN_S = 2.0
_SLOT_LOG = "1GB"
_SETTLE_S = 2.0  # before latencies are measured: processes start
_FEED_S = 10.0  # for the item feed, once the store has everything
_NEVER = ("never_recommendable", "lost", "reordered", "stale_last", "wrong_in_store")


class Fault(StrEnum):
    RELAY = "relay"  # kill -9, and another starts
    DATABASE = "database"  # kill -9, and it starts from what is on disk
    REDIS = "redis"  # the same
    BROKER = "broker"  # the same; the one in memory would lose its log: it is frozen instead


@dataclass(frozen=True)
class DatabaseDrill:
    """At least `changes` at `rate` per second while each fault is injected `repeats` times, `advance` changes after the
    last one; before, `burst` changes as fast as possible, and `latency_s` of them at `latency_rate`."""

    seed: int = 0
    database: Database = Database.POSTGRESQL
    relay: RelayOrder = RelayOrder.OUTBOX
    changes: int = 100_000
    rate: float = 1_000.0
    repeats: int = 17  # of each of four faults; freezing a broker in memory counts as no kill
    advance: int = 1_000
    items: int = 5_000
    burst: int = 50_000
    latency_s: float = 20.0
    latency_rate: float = 500.0
    control: int = 4_000
    is_quick: bool = False

    @classmethod
    def quick(cls, seed: int, database: Database, relay: RelayOrder = RelayOrder.OUTBOX) -> "DatabaseDrill":
        # fmt: off
        return cls(
            seed, database, relay, changes=2_000, rate=800.0, repeats=1, advance=200, items=400, burst=2_000,
            latency_s=1.0, control=300, is_quick=True,
        )
        # fmt: on


def run(config: DatabaseDrill) -> Result:
    """Run all phases. Raises `Unavailable`: a server is not installed, or something did not recover."""
    with ExitStack() as opened:
        server = opened.enter_context(_server(config))
        upgrade(database_url(server.owner_url, Path()))
        server.grant()
        environ = {"RECSYS_DATABASE_URL": server.relay_url, "RECSYS_RELAY": config.relay.value}
        rig = opened.enter_context(StreamRig(Persistence.AOF, environ))
        settings = Settings(database_url=SecretStr(server.url))
        database = opened.enter_context(closing(CatalogueDatabase.of(settings)))
        return _Run(config, server, rig, database).result()


def _server(config: DatabaseDrill) -> DatabaseServer:
    if config.database is Database.MARIADB:
        return MariaDbServer()
    return PostgresServer(slot_log=_SLOT_LOG if config.relay is RelayOrder.SLOT else "")


class _Run:
    def __init__(
        self, config: DatabaseDrill, server: DatabaseServer, rig: StreamRig, database: CatalogueDatabase
    ) -> None:
        self._config = config
        self._server = server
        self._rig = rig
        self._database = database
        self._ledger = Ledger()
        self._relays = [rig.start_worker(*recsys_command("stream", "relay", "--json")) for _ in range(RELAYS)]
        rig.start_worker()
        self._is_durable = rig.kafka.is_durable

    def result(self) -> Result:
        figures: dict[str, float] = {}
        figures |= self._latencies()
        figures |= self._throughput()
        recovery = self._faults()
        self._wait(self._is_settled, "the end of the outbox and of the topic")
        figures |= self._compare()
        for fault, seconds in recovery.items():
            figures |= {f"{fault}_faults": len(seconds), f"{fault}_recovery_max_s": max(seconds)}
            is_kill = fault is not Fault.BROKER or self._is_durable
            figures["kills"] = figures.get("kills", 0) + len(seconds) * is_kill
        figures["failed_writes"] = self._ledger.failures
        for relay in self._relays:
            self._rig.stop_worker(relay)
        engine = connect(database_url(self._server.url, Path()))
        figures["control_changes"] = self._config.control
        figures["control_lost"] = lost_by_poller(engine, self._config.control, 6, self._config.seed)
        engine.dispose()
        return Result("drill db", self._config.seed, figures, self._goals(), self._notes())

    def _goals(self) -> dict[str, Goal]:
        goals = {name: Goal("==", 0) for name in _NEVER}
        goals["control_lost"] = Goal(">", 0)
        if not self._config.is_quick:
            goals["kills"] = Goal(">=", 50)
            goals["changes"] = Goal(">=", 100_000)
            goals["commit_to_recommendable_p99_ms"] = Goal("<=", 500)
            goals["changes_per_s"] = Goal(">=", 5_000)
        return goals

    def _notes(self) -> list[str]:
        notes = [
            f"{self._config.database} with its defaults for durability; Redis with appendfsync everysec;"
            f" {RELAYS} relays ({self._config.relay}), one worker, all on this machine"
        ]
        if not self._is_durable:
            notes.append(
                "the broker in memory was frozen, not killed: RECSYS_LOCAL_KAFKA=apache kills Apache Kafka"
            )
        return notes

    # --- without faults -------------------------------------------------------------------------------------------

    def _latencies(self) -> dict[str, float]:
        config, follower = self._config, Recommendable(self._ledger)
        self._written(batch=20, threads=2, most=40)  # every process has started once this has arrived
        time.sleep(_SETTLE_S)
        with closing(ItemFeed(self._rig.store, lambda: time.time_ns() // 1_000_000)) as feed:
            feed.start()
            feed.attach(follower)
            before = self._ledger.changes
            self._written(
                batch=1,
                threads=4,
                rate=config.latency_rate,
                most=round(config.latency_s * config.latency_rate),
            )
            self._wait(self._is_settled, "the worker")
            deadline = time.monotonic() + _FEED_S
            while len(follower.seconds()) < self._ledger.changes and time.monotonic() < deadline:
                time.sleep(0.05)
        p50, p99 = np.percentile(follower.seconds()[before:], [50, 99]) * 1_000
        return {
            "commit_to_recommendable_p50_ms": float(p50),
            "commit_to_recommendable_p99_ms": float(p99),
            "never_recommendable": self._ledger.changes - len(follower.seconds()),
        }

    def _throughput(self) -> dict[str, float]:
        """Relays and worker run; the time ends when the topic has everything."""
        started, before = time.monotonic(), self._ledger.changes
        self._written(batch=250, threads=4, most=self._config.burst)
        return {"changes_per_s": (self._ledger.changes - before) / (time.monotonic() - started)}

    def _written(self, batch: int, threads: int, most: int, rate: float = 0.0) -> None:
        """Write, and wait until the outbox is empty: then the topic has acknowledged everything."""
        writers = Writers(
            self._database, self._ledger, self._config.items, threads, batch, rate, most, self._config.seed
        )
        writers.start().join()
        self._wait(lambda: not self._waiting(), "the relays")

    # --- faults ---------------------------------------------------------------------------------------------------

    def _faults(self) -> dict[Fault, list[float]]:
        config = self._config
        writers = Writers(
            self._database,
            self._ledger,
            config.items,
            threads=4,
            batch=20,
            rate=config.rate,
            seed=config.seed,
        ).start()
        recovery: dict[Fault, list[float]] = {fault: [] for fault in Fault}
        first = self._ledger.changes
        for fault in islice(cycle(Fault), len(Fault) * config.repeats):
            self._advance(config.advance, f"progress before {fault}")
            began = time.monotonic()
            self._inject(fault)
            self._advance(1, f"recovery from {fault}")
            recovery[fault].append(time.monotonic() - began)
            console.print(f"  {fault}: changes arrive again after {recovery[fault][-1]:.1f} s")
        self._wait(lambda: self._ledger.changes - first >= config.changes, "the writers")
        writers.stop()
        return recovery

    def _inject(self, fault: Fault) -> None:
        match fault:
            case Fault.RELAY:
                self._rig.kill_worker(self._relays.pop(0))
                self._relays.append(self._rig.start_worker(*recsys_command("stream", "relay", "--json")))
            case Fault.DATABASE:
                self._server.kill()
                self._server.start()
            case Fault.REDIS:
                self._rig.redis.kill()
                self._rig.redis.start()
            case Fault.BROKER if self._is_durable:
                self._rig.kafka.kill()
                self._rig.kafka.start()
            case Fault.BROKER:
                freeze(self._rig.kafka.pid, _FROZEN_S)

    def _advance(self, changes: int, what: str) -> None:
        """Wait until that many more changes have passed the topic and are in the store."""
        due: list[int] = []

        def has_advanced() -> bool:
            applied = self._applied()
            due.append(applied + changes)
            return applied >= due[0]

        self._wait(has_advanced, what)

    # --- afterwards -----------------------------------------------------------------------------------------------

    def _compare(self) -> dict[str, float]:
        ends = {(Topic.ITEMS, p): self._rig.source.end_offset(Topic.ITEMS, p) for p in range(PARTITIONS)}
        found = delivered(self._ledger.counts, records_between(self._rig.source, {}, ends, _TIMEOUT_S))
        return {
            "changes": self._ledger.changes,
            **asdict(found),
            "wrong_in_store": wrong_in_store(self._database, self._rig.store),
        }

    def _waiting(self) -> int:
        return self._database.outbox().backlog().rows

    def _applied(self) -> int:
        """Records of the topic that the worker has applied."""
        found = [self._rig.store.checkpoint(Topic.ITEMS, p) for p in range(PARTITIONS)]
        return sum(checkpoint.offset if checkpoint else 0 for checkpoint in found)

    def _is_settled(self) -> bool:
        ends = sum(self._rig.source.end_offset(Topic.ITEMS, p) for p in range(PARTITIONS))
        return not self._waiting() and self._applied() >= ends

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        """What is asked may be away."""

        def holds() -> bool:
            try:
                return condition()
            except Unavailable:
                return False

        self._rig.wait_until(holds, _TIMEOUT_S, what)
