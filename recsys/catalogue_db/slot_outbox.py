"""The outbox in the order of the commits, as a replication slot tells it.

The slot says which rows were committed, and in which order; the table keeps their contents until they are delivered. So
nothing is lost with a slot. A new one is made under another name; what waits is delivered by its numbers, as without a
slot; then the slot gets its name and is followed. Rows that it tells and that are gone by then are passed, and it moves
on once the deletion of the rows is committed. One relay at a time follows it; relays without a slot may run alongside,
as it needs all their lanes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import sqlalchemy as sa
import structlog

from recsys.catalogue_db.connection import database_errors
from recsys.catalogue_db.outbox import Claim, Message, Outbox, in_parts, message_of, oldest
from recsys.catalogue_db.slot import drop_slot, make_slot, rename_slot, slot_rights, usable_slot
from recsys.catalogue_db.slot_changes import Transaction, first, read
from recsys.catalogue_db.tables import LANES, OUTBOX, OUTBOX_LANES
from recsys.contracts.errors import InvalidConfig

_LOCK = crc32(b"recsys stream relay")
_BATCHES = 10  # are read at once: each reading begins far back in the log

# Reading the log takes as long as it takes: a statement that is cancelled would begin at the same place again.
_BEGIN = sa.text("""
SELECT set_config('statement_timeout', '0', true), pg_try_advisory_xact_lock(:lock) AS is_mine,
       pg_current_wal_flush_lsn()::text AS flushed, pg_backend_pid() AS backend,
       (SELECT wal_status FROM pg_replication_slots WHERE slot_name = :slot) AS status,
       (SELECT wal_status FROM pg_replication_slots WHERE slot_name = :new) AS new_status
""")
_MOVE = sa.text("""
SELECT pg_replication_slot_advance(slot_name, CAST(:to AS pg_lsn)) FROM pg_replication_slots
WHERE slot_name = :slot AND confirmed_flush_lsn < CAST(:to AS pg_lsn)
""")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Messages, and what is true once they are delivered."""

    messages: Sequence[Message] = ()
    position: str = ""  # in the log: nothing before it is needed; "": unknown
    rest: Sequence[Transaction] = ()  # what the slot has told of what follows
    is_last_by_number: bool = False  # the new slot tells everything that waits
    backend: int = 0  # that told it: the pool may replace a connection by one to another server


class SlotOutbox(Outbox):
    """As `Outbox`. `claim` raises `InvalidConfig`, too: server or account allow no slot, or nothing bounds its log."""

    def __init__(self, engine: sa.Engine) -> None:
        """Raises `InvalidConfig`: it is not PostgreSQL."""
        if engine.dialect.name != "postgresql":
            raise InvalidConfig(
                f"RECSYS_RELAY=slot needs PostgreSQL, not {engine.dialect.name}; leave it out: the relay then reads the"
                " outbox without a slot"
            )
        super().__init__(engine)
        self._slot = ""  # its name, once the server is known to allow it
        self._done = _Batch()  # the last one that was delivered

    @contextmanager
    def claim(self, most: int) -> Iterator[Claim]:
        """The next rows in the order of their commits: whole transactions, until they have `most` rows. Nothing, while
        another relay is at work. What was not `delivered` is delivered again."""
        # forgotten if anything fails: the next connection may be to another server, with another log
        done, self._done = self._done, _Batch()
        with database_errors(self._engine.url), self._engine.connect() as connection:
            with slot_rights(self._engine.url):
                self._slot = self._slot or usable_slot(connection)
                batch = self._next(connection, most, done)
            if not batch.messages:
                connection.rollback()
            claim = Claim(batch.messages, connection, self._engine.url)
            yield claim
            if claim.is_delivered or not batch.messages:
                self._done = batch
                if batch.is_last_by_number:
                    self._follow_new(connection)

    @property
    def _new(self) -> str:
        """The name of the slot while it does not tell everything that waits."""
        return f"{self._slot}_new"

    def _begin(self, connection: sa.Connection) -> sa.Row[Any]:
        return connection.execute(_BEGIN, {"lock": _LOCK, "slot": self._slot, "new": self._new}).one()

    def _next(self, connection: sa.Connection, most: int, done: _Batch) -> _Batch:
        now = self._begin(connection)
        if not now.is_mine:
            return _Batch()
        if now.status in (None, "lost"):
            self._prepare(connection, now.status, now.new_status)
            waiting = oldest(connection, range(LANES), most) if _lock_lanes(connection) else None
            return _Batch() if waiting is None else _Batch(waiting, is_last_by_number=len(waiting) < most)
        if now.new_status:  # a relay ended while it renamed the slot
            drop_slot(connection, self._new)
        position, told = (done.position, done.rest) if done.backend == now.backend else ("", ())
        while True:
            if not told:
                if position == now.flushed:
                    return _Batch((), position, backend=now.backend)
                if position:
                    connection.execute(_MOVE, {"slot": self._slot, "to": position})
                told = read(connection, self._slot, now.flushed, _BATCHES * most)
                if not told:
                    return _Batch()
            numbers, position, told = first(told, most)
            if numbers and not _lock_lanes(connection):
                return _Batch()
            messages = _with_numbers(connection, numbers)
            if messages:
                return _Batch(messages, position, told, backend=now.backend)

    def _prepare(self, connection: sa.Connection, status: str | None, new_status: str | None) -> None:
        """See to it that there is a new slot, which has its final name later."""
        if status:
            _log.error(
                "the slot was lost: its log was longer than max_slot_wal_keep_size allows; the outbox has its rows, and"
                " a new slot is made",
                slot=self._slot,
            )
            drop_slot(connection, self._slot)
        if new_status in (None, "lost"):
            drop_slot(connection, self._new)
            make_slot(connection, self._new)

    def _follow_new(self, connection: sa.Connection) -> None:
        connection.rollback()
        now = self._begin(connection)
        if now.is_mine and now.status is None and now.new_status:
            rename_slot(connection, self._new, self._slot)
        connection.rollback()


def _lock_lanes(connection: sa.Connection) -> bool:
    """False: a relay without a slot holds some."""
    free = sa.select(OUTBOX_LANES.c.lane).with_for_update(skip_locked=True)
    return len(connection.scalars(free).all()) == LANES


def _with_numbers(connection: sa.Connection, numbers: Sequence[int]) -> list[Message]:
    """The rows that are still there, in that order."""
    found = {
        row.id: message_of(row)
        for some in in_parts(numbers)
        for row in connection.execute(sa.select(OUTBOX).where(OUTBOX.c.id.in_(some)))
    }
    return [found[number] for number in numbers if number in found]
