"""The outbox through a replication slot: what it does beyond the contract of any outbox (`test_catalogue_db.py`)."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from infra.local.databases import PostgresServer
from recsys.catalogue_db.connection import connect
from recsys.catalogue_db.connection import database_url as parsed
from recsys.catalogue_db.database import CatalogueDatabase
from recsys.catalogue_db.outbox import Outbox
from recsys.catalogue_db.slot import usable_slot
from recsys.catalogue_db.slot_changes import Snapshot
from recsys.catalogue_db.slot_outbox import SlotOutbox
from recsys.catalogue_db.tables import OUTBOX, lane_of
from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import Item, User
from streaming.relay import RelayMetrics, Totals
from tests.databases import SlotDatabase, emptied, opened

pytestmark = pytest.mark.database


@pytest.fixture
def owner(postgresql: PostgresServer) -> Iterator[sa.Engine]:
    made = connect(parsed(postgresql.owner_url, Path())).execution_options(isolation_level="AUTOCOMMIT")
    yield made
    made.dispose()


@pytest.fixture
def database(postgresql: PostgresServer, owner: sa.Engine) -> Iterator[SlotDatabase]:
    """Without a slot yet."""
    with owner.connect() as connection:
        connection.execute(sa.text("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"))
    made = SlotDatabase(connect(parsed(emptied(postgresql.relay_url), Path())))
    yield made
    made.close()


@pytest.fixture
def followed(database: SlotDatabase) -> SlotOutbox:
    """Its slot tells everything that is committed from now on."""
    outbox = database.slot_outbox()
    assert titles(outbox) == []
    assert slots(database) == 1
    return outbox


def put(database: CatalogueDatabase, *titles: str, key: str = "i") -> None:
    for title in titles:
        database.put_items([ItemChange(key, Item(key, title), 1)])


def titles(outbox: Outbox, most: int = 100) -> list[str]:
    """Of one claim, which is delivered."""
    with outbox.claim(most) as claim:
        if claim.messages:
            claim.delivered()
        return [orjson.loads(message.value)["item"]["title"] for message in claim.messages]


def slots(database: SlotDatabase) -> int:
    return int(query(database, "SELECT count(*) FROM pg_replication_slots"))


def query(database: CatalogueDatabase, statement: str) -> Any:
    with database._engine.connect() as connection:
        return connection.execute(sa.text(statement)).scalar_one()


def row(key: str, title: str) -> dict[str, Any]:
    value = orjson.dumps({"item": {"title": title}})
    return {
        "lane": lane_of(key),
        "topic": "items",
        "key": key,
        "value": value,
        "headers": [],
        "written_ms": 0,
    }


def test_the_order_is_that_of_the_commits_not_of_the_numbers(
    database: SlotDatabase, followed: SlotOutbox
) -> None:
    with database._engine.connect() as slow:
        slow.execute(sa.insert(OUTBOX), [row("a", "committed second")])
        put(database, "committed first")
        slow.commit()
    assert titles(followed) == ["committed first", "committed second"]


def test_a_transaction_is_delivered_as_a_whole(database: SlotDatabase, followed: SlotOutbox) -> None:
    database.put_items([ItemChange(key, Item(key, key), 1) for key in "abcde"])
    put(database, "1", "2", "3")
    assert titles(followed, most=3) == list("abcde")
    assert titles(followed, most=2) == ["1", "2"]
    assert titles(followed, most=2) == ["3"]
    assert titles(followed) == []


def test_a_transaction_may_have_more_rows_than_a_statement_takes_parameters(
    database: SlotDatabase, followed: SlotOutbox
) -> None:
    copies = sa.text(
        "INSERT INTO outbox (lane, topic, key, value, headers, written_ms) SELECT lane, topic, key, value, headers,"
        " written_ms FROM outbox, generate_series(1, 70000)"
    )
    with database._engine.begin() as connection:
        connection.execute(sa.insert(OUTBOX), [row("a", "one of many")])
        connection.execute(copies)
    assert len(titles(followed)) == 70_001
    assert titles(followed) == []


def test_a_relay_that_dies_while_it_renames_the_slot_leaves_none_behind(
    database: SlotDatabase, followed: SlotOutbox, owner: sa.Engine
) -> None:
    with owner.connect() as connection:
        name = usable_slot(connection)
        copy = sa.text("SELECT pg_copy_logical_replication_slot(:name, :copy)")
        connection.execute(copy, {"name": name, "copy": f"{name}_new"})
    assert slots(database) == 2
    put(database, "1")
    assert titles(database.slot_outbox()) == ["1"]
    assert slots(database) == 1


def test_a_position_that_another_connection_was_told_is_not_used(
    database: SlotDatabase, followed: SlotOutbox
) -> None:
    put(database, "1")
    assert titles(followed) == ["1"]
    followed._done = replace(followed._done, backend=-1, position="FFFFFFFF/0")
    put(database, "2")
    assert titles(followed) == ["2"]


def test_a_relay_that_dies_before_the_rows_are_deleted_leaves_them_to_the_next(
    database: SlotDatabase, followed: SlotOutbox
) -> None:
    put(database, "1", "2")
    with followed.claim(1):
        pass
    with pytest.raises(KeyboardInterrupt), followed.claim(100) as claim:
        assert len(claim.messages) == 2
        raise KeyboardInterrupt
    put(database, "3")
    assert titles(followed) == ["1", "2", "3"]


def test_a_relay_that_dies_before_the_slot_is_moved_on_repeats_nothing(
    database: SlotDatabase, followed: SlotOutbox
) -> None:
    put(database, "1")
    assert titles(followed) == ["1"]  # the next claim would move the slot
    put(database, "2")
    assert titles(database.slot_outbox()) == ["2"]


def test_what_waited_before_there_was_a_slot_comes_first_and_is_not_left_by_a_relay_that_dies(
    database: SlotDatabase,
) -> None:
    put(database, "1", "2", "3")
    assert titles(database.slot_outbox(), most=2) == ["1", "2"]  # it dies: the new slot is not followed yet
    put(database, "4")
    assert slots(database) == 1
    outbox = database.slot_outbox()
    assert titles(outbox) == ["3", "4"]
    put(database, "5")
    assert titles(outbox) == ["5"]
    assert slots(database) == 1


def test_a_commit_that_nobody_sees_yet_is_waited_for(postgresql: PostgresServer, owner: sa.Engine) -> None:
    """While it waits for a standby, it is in the log, and its rows cannot be read."""
    database, stop = opened(emptied(postgresql.url)), threading.Event()
    does_not_wait = f"{postgresql.relay_url}?options=-csynchronous_commit%3Dlocal"
    relays = SlotDatabase(connect(parsed(does_not_wait, Path())))
    outbox = relays.slot_outbox()
    assert titles(outbox) == []

    def standby(name: str) -> None:
        with owner.connect() as connection:
            connection.execute(sa.text(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'"))
            connection.execute(sa.text("SELECT pg_reload_conf()"))

    def write() -> int:
        number = 0
        while not stop.is_set():
            put(database, str(number))
            number += 1
        return number

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        standby("nobody")
        try:
            while not query(database, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"):
                pass
            seen = titles(outbox, most=1_000_000)
            assert titles(outbox) == []
        finally:
            stop.set()
            standby("")
        written = writing.result(30)
    assert seen == [str(number) for number in range(written - 1)]
    assert titles(outbox) == [str(written - 1)]
    for each in (database, relays):
        each.close()


def test_rows_that_are_gone_do_not_hold_up_what_follows_them(
    database: SlotDatabase, followed: SlotOutbox, owner: sa.Engine
) -> None:
    put(database, *map(str, range(20)))
    with owner.connect() as connection:
        connection.execute(sa.delete(OUTBOX))
    put(database, "20")
    assert titles(followed, most=2) == ["20"]


def test_a_forgotten_users_changes_are_passed(database: SlotDatabase, followed: SlotOutbox) -> None:
    database.put_users([UserChange("u", User("u", {"age": "31"}), 1)])
    database.forget_user("u")
    with followed.claim(100) as claim:
        assert [message.value for message in claim.messages] == [b""]


def test_changes_of_other_tables_move_the_slot_on(database: SlotDatabase, followed: SlotOutbox) -> None:
    database.load_items([ItemChange("i", Item("i"), 1)])
    behind = "SELECT pg_current_wal_flush_lsn() - confirmed_flush_lsn FROM pg_replication_slots"
    before = query(database, behind)
    assert titles(followed) == []  # the next claim moves the slot, if there is more to read
    put(database, "1")
    with followed.claim(1) as claim:
        assert len(claim.messages) == 1
        assert query(database, behind) < before


def test_one_relay_at_a_time_and_none_without_all_lanes(
    database: SlotDatabase, followed: SlotOutbox, postgresql: PostgresServer
) -> None:
    put(database, "1")
    second, by_number = database.slot_outbox(), opened(postgresql.url).outbox()
    with followed.claim(100) as claim:
        assert len(claim.messages) == 1
        assert titles(second) == []
        assert titles(by_number) == []
    with by_number.claim(100) as claim:
        assert len(claim.messages) == 1
        assert titles(followed) == []
        claim.delivered()
    put(database, "2")
    assert titles(followed) == ["2"]


def lose(database: SlotDatabase, owner: sa.Engine) -> None:
    """Fill more log than the slot may keep."""
    with owner.connect() as connection:
        for _ in range(3):
            connection.execute(sa.text("SELECT pg_logical_emit_message(false, 'test', 'x'), pg_switch_wal()"))
        connection.execute(sa.text("CHECKPOINT"))
    state = database.slot_state()
    assert state is not None
    assert (state.status, state.left_bytes) == ("lost", None)


def test_nothing_is_lost_with_the_slot(
    database: SlotDatabase, followed: SlotOutbox, owner: sa.Engine
) -> None:
    put(database, "1", "2")
    lose(database, owner)
    put(database, "3")
    with capture_logs() as logged:
        assert titles(followed) == ["1", "2", "3"]
    assert ["the slot was lost" in entry["event"] for entry in logged] == [True]
    put(database, "4")
    assert titles(followed) == ["4"]
    assert slots(database) == 1


def test_a_new_slot_that_is_lost_before_it_is_followed(database: SlotDatabase, owner: sa.Engine) -> None:
    put(database, "1", "2", "3")
    assert titles(database.slot_outbox(), most=2) == ["1", "2"]
    lose(database, owner)
    assert titles(database.slot_outbox()) == ["3"]


def test_the_slot_is_shown(database: SlotDatabase, postgresql: PostgresServer) -> None:
    without = opened(postgresql.url)
    assert without.slot_state() is None
    titles(database.slot_outbox())
    state = without.slot_state()  # with the rights of any account
    assert state is not None
    assert state.status == "reserved"
    assert 0 < state.kept_bytes < 2**24
    assert state.left_bytes is not None
    metrics = RelayMetrics(Totals(), without.outbox().backlog, without.slot_state)
    for name in ("kept", "left"):
        assert metrics.registry.get_sample_value(f"recsys_relay_slot_{name}_bytes")
    without.close()


# --- refusals -----------------------------------------------------------------------------------------------------


def test_an_account_without_the_right_is_told_what_it_needs(
    database: SlotDatabase, postgresql: PostgresServer
) -> None:
    account = opened(postgresql.url)
    with pytest.raises(InvalidConfig, match="REPLICATION"), account.slot_outbox().claim(1):
        pass
    account.close()


def test_other_databases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="needs PostgreSQL, not sqlite"):
        opened(f"sqlite:///{tmp_path / 'catalogue.db'}").slot_outbox()


@pytest.mark.parametrize(
    ("said", "version", "server"),
    [
        ("PostgreSQL 13 or newer", 12, {}),
        ("SET wal_level = 'logical'", 15, {"wal_level": "replica"}),
        ("SET max_slot_wal_keep_size", 15, {"bound": "-1"}),
        ("recsys db upgrade", 15, {"is_published": False}),
    ],
)
def test_a_server_that_allows_no_slot_is_told_what_to_set(
    said: str, version: int, server: dict[str, Any]
) -> None:
    found = {"wal_level": "logical", "bound": "1GB", "is_published": True, "slot": "recsys_relay_1"} | server
    connection: Any = SimpleNamespace(
        dialect=SimpleNamespace(server_version_info=(version, 2)),
        execute=lambda *_: SimpleNamespace(one=lambda: SimpleNamespace(**found)),
    )
    with pytest.raises(InvalidConfig, match=said):
        usable_slot(connection)


def test_transactions_are_compared_across_the_end_of_32_bits() -> None:
    snapshot = Snapshot(f"{2**32 - 9}:{2**32 + 5}:{2**32 - 9},{2**32 + 1}")
    seen = [snapshot.sees(xid) for xid in (2**32 - 10, 2**32 - 9, 2**32 - 1, 0, 1, 4, 5)]
    assert seen == [True, False, True, True, False, True, False]
