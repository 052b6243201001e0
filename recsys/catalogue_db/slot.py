"""A logical replication slot of PostgreSQL: whether server and account allow one, how far it has got, making one.

A slot keeps the server's log until it has been read, whether or not anything reads it: `max_slot_wal_keep_size` bounds
that, and a server without a bound is refused. Beyond the bound the server gives the slot up: it is lost.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import ProgrammingError

from recsys.catalogue_db.connection import database_errors, said
from recsys.contracts.errors import InvalidConfig

PUBLICATION = "recsys_outbox"  # inserts into the outbox; the third version of the tables makes it
_SINCE = 13  # the first PostgreSQL that bounds the log of a slot
_NO_RIGHT = "42501"

_SERVER = sa.text("""
SELECT current_setting('wal_level') AS wal_level, current_setting('max_slot_wal_keep_size') AS bound,
       EXISTS (SELECT FROM pg_publication_tables WHERE pubname = :publication) AS is_published,
       (SELECT 'recsys_relay_' || oid FROM pg_database WHERE datname = current_database()) AS slot
""")
_STATE = sa.text("""
SELECT wal_status, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint, safe_wal_size
FROM pg_replication_slots WHERE starts_with(slot_name, 'recsys_relay_') AND database = current_database()
ORDER BY restart_lsn NULLS FIRST LIMIT 1
""")
_CREATE = sa.text("SELECT pg_create_logical_replication_slot(:slot, 'pgoutput')")
_COPY = sa.text("SELECT pg_copy_logical_replication_slot(:slot, :copy)")
_DROP = sa.text(
    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = :slot"
)


@dataclass(frozen=True, slots=True)
class SlotState:
    status: str  # PostgreSQL's `wal_status`: reserved, extended, unreserved or lost
    kept_bytes: int  # of the server's log, from the oldest that the slot may need
    left_bytes: int | None  # until it is lost; None: it is lost, or nothing bounds it


def slot_state(engine: sa.Engine) -> SlotState | None:
    """None: there is no slot, or the database has none. Raises `Unavailable`."""
    if engine.dialect.name != "postgresql":
        return None
    with database_errors(engine.url), engine.connect() as connection:
        row = connection.execute(_STATE).first() if _version(connection) >= _SINCE else None
        return SlotState(*row) if row else None


def usable_slot(connection: sa.Connection) -> str:
    """The name of the relay's slot, which may not be there yet; one for each database of the server. Raises
    `InvalidConfig`: the server allows none, or nothing bounds its log."""
    if _version(connection) < _SINCE:
        raise InvalidConfig(f"RECSYS_RELAY=slot needs PostgreSQL {_SINCE} or newer; leave it out")
    server = connection.execute(_SERVER, {"publication": PUBLICATION}).one()
    if server.wal_level != "logical":
        raise InvalidConfig(
            f"RECSYS_RELAY=slot needs wal_level = logical, not {server.wal_level}: ALTER SYSTEM SET wal_level ="
            " 'logical', and restart the server; or leave it out"
        )
    if server.bound == "-1":
        raise InvalidConfig(
            "RECSYS_RELAY=slot: nothing bounds the log that a slot keeps, and one that nobody reads would fill the"
            " server's disk: ALTER SYSTEM SET max_slot_wal_keep_size = '4GB', and SELECT pg_reload_conf()"
        )
    if not server.is_published:
        raise InvalidConfig(
            f"RECSYS_RELAY=slot: there is no publication {PUBLICATION}: run `recsys db upgrade`; where that has"
            f" run, its account may not create one: CREATE PUBLICATION {PUBLICATION} FOR TABLE outbox WITH (publish ="
            " 'insert')"
        )
    return str(server.slot)


def make_slot(connection: sa.Connection, name: str) -> None:
    """In a transaction that has written nothing. It tells the transactions that commit from now on. Waits for those
    that are writing, up to `lock_timeout`."""
    connection.execute(_CREATE, {"slot": name})


def rename_slot(connection: sa.Connection, name: str, to: str) -> None:
    """In a transaction that has written nothing."""
    connection.execute(_COPY, {"slot": name, "copy": to})
    drop_slot(connection, name)


def drop_slot(connection: sa.Connection, name: str) -> None:
    """Idempotent."""
    connection.execute(_DROP, {"slot": name})


@contextmanager
def slot_rights(url: sa.URL) -> Iterator[None]:
    """Raises `InvalidConfig`: the account may not use slots."""
    try:
        yield
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) != _NO_RIGHT:
            raise
        raise InvalidConfig(
            f"RECSYS_RELAY=slot: {said(error)}; a relay with a slot needs an account with REPLICATION and the rights of"
            f" any relay: CREATE ROLE recsys_relay LOGIN REPLICATION PASSWORD '…' IN ROLE {url.username}"
        ) from None


def _version(connection: sa.Connection) -> int:
    return int((connection.dialect.server_version_info or (0,))[0])
