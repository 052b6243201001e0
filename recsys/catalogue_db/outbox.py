"""What waits to be sent to the topics, and how several relays share it.

A relay locks some of the lanes, reads their oldest rows, delivers them, and deletes exactly those. PostgreSQL and
MySQL hold the lock in the transaction of the deletion (`FOR UPDATE SKIP LOCKED`), so that it ends with the relay's
connection. SQLite would hold off every writer meanwhile; there, a lock on a file lets one relay at a time work.
"""

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from recsys.catalogue_db.connection import SQLITE, database_errors
from recsys.catalogue_db.tables import LANES, OUTBOX, OUTBOX_LANES

Headers = Sequence[tuple[str, bytes]]
_PART = 10_000  # numbers in a statement
_LANES_AT_ONCE = LANES // 2  # of those with rows, so that a second relay finds work, too


@dataclass(frozen=True, slots=True)
class Message:
    """One record on its way to its topic. An empty value is a tombstone."""

    number: int
    topic: str
    key: str
    value: bytes
    headers: Headers


@dataclass(frozen=True, slots=True)
class Backlog:
    rows: int
    oldest_s: float  # age of the oldest row; 0.0: there is none


def in_parts(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """A statement takes 65,535 parameters; a claim that follows commits may be one transaction with more rows."""
    return (numbers[start : start + _PART] for start in range(0, len(numbers), _PART))


class Claim:
    """The oldest rows of the lanes that one relay holds."""

    def __init__(self, messages: Sequence[Message], connection: sa.Connection, url: sa.URL) -> None:
        self.messages = messages
        self.is_delivered = False
        self._connection = connection
        self._url = url

    def check(self) -> None:
        """Raises `Unavailable`: the connection was lost, and with it the lanes; another relay may have them."""
        with database_errors(self._url):
            self._connection.execute(sa.select(sa.literal(1)))

    def delivered(self) -> None:
        """Delete the rows: the log has acknowledged them. Raises `Unavailable`: they will be delivered again."""
        with database_errors(self._url):
            # by number, not "up to the last one": a smaller one may have been committed since
            for some in in_parts([m.number for m in self.messages]):
                self._connection.execute(sa.delete(OUTBOX).where(OUTBOX.c.id.in_(some)))
            self._connection.commit()
        self.is_delivered = True


class Outbox:
    """Not thread-safe: one per relay. Every method may raise `Unavailable`."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._first = 0  # of the lanes: where the next claim begins

    def backlog(self, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> Backlog:
        with database_errors(self._engine.url), self._engine.connect() as connection:
            rows, oldest_ms = connection.execute(
                sa.select(sa.func.count(), sa.func.min(OUTBOX.c.written_ms)).select_from(OUTBOX)
            ).one()
        return Backlog(rows, max(0, now_ms() - oldest_ms) / 1_000 if rows else 0.0)

    @contextmanager
    def claim(self, most: int) -> Iterator[Claim]:
        """Up to `most` rows, of one key in the order of its changes. Nobody else delivers rows of their lanes before
        the end of the context; what was not `delivered` by then is delivered again."""
        with (
            database_errors(self._engine.url),
            self._file_lock() as is_mine,
            self._engine.connect() as connection,
        ):
            lanes = self._lock_lanes(connection) if is_mine else []
            messages = oldest(connection, lanes, most) if lanes else []
            if self._engine.dialect.name == SQLITE or not messages:
                connection.rollback()
            yield Claim(messages, connection, self._engine.url)

    def _lock_lanes(self, connection: sa.Connection) -> list[int]:
        waiting = sa.exists().where(OUTBOX.c.lane == OUTBOX_LANES.c.lane)
        with_rows = connection.scalars(sa.select(OUTBOX_LANES.c.lane).where(waiting)).all()
        # after the last ones, so that a busy lane does not hold up the others
        turn = sorted(with_rows, key=lambda lane: (lane - self._first) % LANES)[:_LANES_AT_ONCE]
        if not turn:
            return []
        self._first = (turn[-1] + 1) % LANES
        free = sa.select(OUTBOX_LANES.c.lane).where(OUTBOX_LANES.c.lane.in_(turn))
        return list(connection.scalars(free.with_for_update(skip_locked=True)))

    def _file_lock(self) -> "nullcontext[bool] | _FileLock":
        if self._engine.dialect.name != SQLITE:
            return nullcontext(True)
        return _FileLock(Path(f"{self._engine.url.database}.relay"))


class _FileLock:
    """Whether this process got the lock; it ends with the context, or with the process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> bool:
        self._file = self._path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        self._file.close()


def oldest(connection: sa.Connection, lanes: Sequence[int], most: int) -> list[Message]:
    """The first rows of these lanes by their numbers."""
    rows = sa.select(OUTBOX).where(OUTBOX.c.lane.in_(lanes)).order_by(OUTBOX.c.id).limit(most)
    return [message_of(row) for row in connection.execute(rows)]


def message_of(row: sa.Row[Any]) -> Message:
    headers = [(name, content.encode("latin-1")) for name, content in row.headers]
    return Message(row.id, row.topic, row.key, row.value, headers)
