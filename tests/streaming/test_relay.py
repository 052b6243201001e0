"""The relay on SQLite, on PostgreSQL with a slot, and a log in memory that can be switched off; `recsys drill db` runs
it on real servers."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
import pytest
from pydantic import SecretStr

from recsys.catalogue_db.connection import connect, database_url
from recsys.catalogue_db.database import CatalogueDatabase
from recsys.catalogue_db.outbox import Backlog, Claim
from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.errors import InvalidConfig, InvalidEvent, Unavailable
from recsys.contracts.types import Item, Topic, User
from streaming.relay import Relay, RelayMetrics, Totals, main
from streaming.settings import RelayOrder, StreamSettings
from tests.databases import SLOT, WITH_SLOT, SlotDatabase, emptied, opened, sqlite_url

Record = tuple[str, str, bytes, Sequence[tuple[str, bytes]]]


class Log:
    """What every sink has delivered, in order."""

    def __init__(self) -> None:
        self.up = True
        self.refuses = ""  # a key
        self.taken: list[Record] = []
        self.sinks: list[Sink] = []

    def sink(self) -> "Sink":
        self.sinks.append(Sink(self))
        return self.sinks[-1]

    def titles(self, key: str) -> list[str]:
        return [orjson.loads(value)["item"]["title"] for _, k, value, _ in self.taken if k == key]


class Sink:
    """As `KafkaSink`: what is appended stays until it is acknowledged, and is sent whenever the log is back."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._queued: list[Record] = []
        self.closed = False

    def append(self, topic: str, key: str, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        if key == self._log.refuses:
            raise InvalidEvent("too large")
        assert not self.closed
        self._queued.append((topic, key, value, headers))

    def flush(self, timeout_s: float = 10.0) -> None:
        if not self._log.up:
            raise Unavailable("the log is switched off")
        self._log.taken += self._queued
        self._queued = []

    def close(self, timeout_s: float = 10.0) -> None:
        self.closed = True
        if self._queued and timeout_s == 0.0:
            raise Unavailable("not acknowledged")


@pytest.fixture(params=["sqlite", WITH_SLOT])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CatalogueDatabase]:
    if request.param == SLOT:
        url = emptied(request.getfixturevalue("postgresql").relay_url)
        made: CatalogueDatabase = SlotDatabase(connect(database_url(url, tmp_path)))
    else:
        made = opened(sqlite_url(tmp_path))
    yield made
    made.close()


def put(database: CatalogueDatabase, item_id: str, title: str) -> None:
    database.put_items([ItemChange(item_id, Item(item_id, title), 1)])


def drain(relay: Relay) -> None:
    while relay.step():
        pass


def waits(database: CatalogueDatabase) -> int:
    return database.outbox().backlog().rows


def test_every_change_arrives_in_the_order_of_its_key(database: CatalogueDatabase) -> None:
    for n in range(30):
        put(database, f"i{n % 3}", str(n))
    database.put_users([UserChange("u", User("u", {"age": "31"}), 1)], [("traceparent", b"00-1")])
    database.forget_user("v")
    log = Log()
    relay = Relay(database.outbox(), log.sink, batch=7)
    drain(relay)
    assert [log.titles(f"i{k}") for k in range(3)] == [[str(n) for n in range(k, 30, 3)] for k in range(3)]
    users = {key: (value, headers) for topic, key, value, headers in log.taken if topic == Topic.USERS}
    assert orjson.loads(users["u"][0])["user"]["attributes"] == {"age": "31"}
    assert users["u"][1] == [("traceparent", b"00-1")]
    assert users["v"] == (b"", [])  # a tombstone
    assert waits(database) == 0
    assert relay.totals.delivered == 32
    assert len(log.sinks) == 1


def test_while_the_log_is_away_the_rows_stay_and_nothing_of_them_is_sent_later(
    database: CatalogueDatabase,
) -> None:
    put(database, "i", "old")
    log = Log()
    log.up = False
    relay = Relay(database.outbox(), log.sink, patience_s=0.0)
    with pytest.raises(Unavailable):
        relay.step()
    assert log.sinks[0].closed
    assert waits(database) == 1
    put(database, "i", "new")
    log.up = True
    drain(relay)
    assert log.titles("i") == ["old", "new"]
    assert len(log.sinks) == 2


def test_a_relay_that_has_lost_its_lanes_gives_up_at_once(
    database: CatalogueDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(claim: Claim) -> None:
        raise Unavailable("the connection was lost")

    monkeypatch.setattr(Claim, "check", lost)
    put(database, "i", "1")
    log = Log()
    log.up = False
    relay = Relay(database.outbox(), log.sink, patience_s=3600.0)
    with pytest.raises(Unavailable, match="connection was lost"):
        relay.step()
    assert log.sinks[0].closed


def test_what_was_acknowledged_and_not_deleted_is_sent_again(
    database: CatalogueDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(database, "i", "1")
    put(database, "i", "2")
    log = Log()
    relay = Relay(database.outbox(), log.sink)

    def dies(claim: Claim) -> None:
        raise Unavailable("the database ended before the commit")

    with monkeypatch.context() as patch, pytest.raises(Unavailable):
        patch.setattr(Claim, "delivered", dies)
        relay.step()
    put(database, "i", "3")
    drain(Relay(database.outbox(), log.sink))
    assert log.titles("i") == ["1", "2", "1", "2", "3"]


def test_a_record_that_the_log_never_takes_does_not_hold_up_the_others(database: CatalogueDatabase) -> None:
    put(database, "large", "1")
    put(database, "i", "2")
    log = Log()
    log.refuses = "large"
    relay = Relay(database.outbox(), log.sink)
    drain(relay)
    assert [key for _, key, _, _ in log.taken] == ["i"]
    assert waits(database) == 0
    assert relay.totals.refused == 1


def test_outages_are_waited_out(database: CatalogueDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    put(database, "i", "1")
    log, stop = Log(), threading.Event()
    log.up = False
    relay = Relay(database.outbox(), log.sink, patience_s=0.0)

    def wait(seconds: float) -> bool:
        if log.up and not waits(database):
            stop.set()
        log.up = True
        return stop.is_set()

    monkeypatch.setattr(stop, "wait", wait)
    steps: list[None] = []
    relay.run(stop, lambda: steps.append(None))
    assert log.titles("i") == ["1"]
    assert relay.totals.outages == 1
    assert len(steps) == 2  # an outage is no loop that hangs


def test_a_scrape_asks_what_waits_and_says_nothing_while_the_database_is_away(
    database: CatalogueDatabase,
) -> None:
    def away() -> Backlog:
        raise Unavailable("the database is away")

    put(database, "i", "1")
    totals = Totals(delivered=7)
    shown = RelayMetrics(totals, database.outbox().backlog).registry.get_sample_value
    assert (shown("recsys_relay_delivered_total"), shown("recsys_relay_waiting_rows")) == (7, 1)
    totals.delivered = 8
    silent = RelayMetrics(totals, away).registry.get_sample_value
    assert silent("recsys_relay_delivered_total") == shown("recsys_relay_delivered_total") == 8
    assert silent("recsys_relay_waiting_rows") is None


def test_a_relay_needs_a_database() -> None:
    with pytest.raises(InvalidConfig, match="RECSYS_DATABASE_URL"):
        main(StreamSettings(kafka_bootstrap="127.0.0.1:1"), threading.Event())


def test_a_slot_needs_a_database_that_has_slots(tmp_path: Path) -> None:
    settings = StreamSettings(home=tmp_path, database_url=SecretStr("sqlite"), relay=RelayOrder.SLOT)
    with pytest.raises(InvalidConfig, match="needs PostgreSQL"):
        main(settings, threading.Event())
