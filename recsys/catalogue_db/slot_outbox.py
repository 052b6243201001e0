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
from recsys.catalogue_db.outbox import Claim, Message, Outbox, message_of, oldest
from recsys.catalogue_db.slot import PUBLICATION, drop_slot, make_slot, rename_slot, slot_rights, usable_slot
from recsys.catalogue_db.tables import LANES, OUTBOX, OUTBOX_LANES
from recsys.contracts.errors import InvalidConfig

_LOCK = crc32(b"recsys stream relay")
_ROWS = 3  # that the slot tells of a transaction with one change: begin, insert, commit

# Reading the log takes as long as it takes: a statement that is cancelled would begin at the same place again.
_BEGIN = sa.text("""
SELECT set_config('statement_timeout', '0', true), pg_try_advisory_xact_lock(:lock) AS is_mine,
       pg_current_wal_flush_lsn()::text AS flushed,
       (SELECT wal_status FROM pg_replication_slots WHERE slot_name = :slot) AS status,
       (SELECT wal_status FROM pg_replication_slots WHERE slot_name = :new) AS new_status
""")
_MOVE = sa.text("""
SELECT pg_replication_slot_advance(slot_name, CAST(:to AS pg_lsn)) FROM pg_replication_slots
WHERE slot_name = :slot AND confirmed_flush_lsn < CAST(:to AS pg_lsn)
""")
_PEEK = sa.text("""
SELECT lsn::text, xid::text::bigint, substring(data FOR 40)
FROM pg_logical_slot_peek_binary_changes(
  :slot, CAST(:upto AS pg_lsn), CAST(:rows AS int), 'proto_version', '1', 'publication_names', :publication)
""")
_SNAPSHOT = sa.text("SELECT pg_current_snapshot()::text")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Batch:
    messages: Sequence[Message] = ()
    position: str = (
        ""  # in the log: once the messages are delivered, nothing before it is needed; "": unknown
    )
    is_last_by_number: bool = False  # once they are delivered, the new slot tells everything that waits


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
        self._position = ""  # after the last batch that was delivered

    @contextmanager
    def claim(self, most: int) -> Iterator[Claim]:
        """The next rows in the order of their commits: whole transactions, until they have `most` rows. Nothing, while
        another relay is at work. What was not `delivered` is delivered again."""
        # forgotten if anything fails: the next connection may be to another server, with another log
        position, self._position = self._position, ""
        with database_errors(self._engine.url), self._engine.connect() as connection:
            with slot_rights(self._engine.url):
                self._slot = self._slot or usable_slot(connection)
                batch = self._next(connection, most, position)
            if not batch.messages:
                connection.rollback()
            claim = Claim(batch.messages, connection, self._engine.url)
            yield claim
            if claim.is_delivered or not batch.messages:
                self._position = batch.position
                if batch.is_last_by_number:
                    self._follow_new(connection)

    @property
    def _new(self) -> str:
        """The name of the slot while it does not tell everything that waits."""
        return f"{self._slot}_new"

    def _begin(self, connection: sa.Connection) -> sa.Row[Any]:
        return connection.execute(_BEGIN, {"lock": _LOCK, "slot": self._slot, "new": self._new}).one()

    def _next(self, connection: sa.Connection, most: int, position: str) -> _Batch:
        now = self._begin(connection)
        if not now.is_mine:
            return _Batch()
        if now.status in (None, "lost"):
            self._prepare(connection, now.status, now.new_status)
            waiting = oldest(connection, range(LANES), most) if _lock_lanes(connection) else None
            return _Batch() if waiting is None else _Batch(waiting, is_last_by_number=len(waiting) < most)
        if now.flushed == position:
            return _Batch((), position)
        while True:
            if position:
                connection.execute(_MOVE, {"slot": self._slot, "to": position})
            numbers, position = self._told(connection, most, now.flushed)
            if numbers and not _lock_lanes(connection):
                return _Batch()
            messages = _with_numbers(connection, numbers)
            if messages or position in ("", now.flushed):  # else all of these are gone
                return _Batch(messages, position)

    def _told(self, connection: sa.Connection, most: int, flushed: str) -> tuple[list[int], str]:
        """Numbers of rows in the order of their commits, and the position after them ("": unknown)."""
        asked = {"slot": self._slot, "upto": flushed, "rows": _ROWS * most, "publication": PUBLICATION}
        rows = connection.execute(_PEEK, asked).all()
        snapshot = Snapshot(connection.execute(_SNAPSHOT).scalar_one())
        numbers: list[int] = []
        of_transaction: list[int] = []
        position = ""
        for lsn, xid, data in rows:
            if data[:1] == b"I":
                of_transaction.append(_number(data))
            elif data[:1] == b"C":
                if not snapshot.sees(xid):
                    return numbers, position
                numbers += of_transaction
                of_transaction, position = [], lsn
                if len(numbers) >= most:
                    return numbers, position
        return numbers, position if len(rows) >= _ROWS * most else flushed

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


class Snapshot:
    """Which transactions the next statement sees. A commit is in the log before others see its rows, and with a
    synchronous standby long before.

    >>> [Snapshot("740:744:741,743").sees(xid) for xid in (739, 741, 742, 743, 744)]
    [True, False, True, False, False]
    """

    def __init__(self, text: str) -> None:
        """`text`: "xmin:xmax:running", transactions of 64 bits."""
        _, end, running = text.split(":")
        self._end = int(end)
        self._running = {int(xid) % 2**32 for xid in running.split(",") if xid}

    def sees(self, xid: int) -> bool:
        """`xid`: the lower 32 bits."""
        return (xid - self._end) % 2**32 >= 2**31 and xid not in self._running


def _lock_lanes(connection: sa.Connection) -> bool:
    """False: a relay without a slot holds some."""
    free = sa.select(OUTBOX_LANES.c.lane).with_for_update(skip_locked=True)
    return len(connection.scalars(free).all()) == LANES


def _with_numbers(connection: sa.Connection, numbers: Sequence[int]) -> list[Message]:
    """The rows that are still there, in that order."""
    if not numbers:
        return []
    rows = connection.execute(sa.select(OUTBOX).where(OUTBOX.c.id.in_(numbers)))
    found = {row.id: message_of(row) for row in rows}
    return [found[number] for number in numbers if number in found]


def _number(insert: bytes) -> int:
    """The first column of pgoutput's message: I, relation (4 bytes), N, columns (2), t, length (4), text."""
    length = int.from_bytes(insert[9:13], "big")
    return int(insert[13 : 13 + length])
