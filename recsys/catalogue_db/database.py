"""Write changes to their table and to the outbox in one transaction, and read the tables.

Two transactions that change the same ids take the locks in the order of the ids, so that they cannot wait for each
other. The lock on a changed row is taken before the row of the outbox gets its number and held until the commit:
of one id, the numbers increase in the order of the commits. Over all ids they do not, which is why
`recsys.catalogue_db.outbox` never asks for "everything after the last number".
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import orjson
import sqlalchemy as sa
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from recsys.catalogue_db.changes import item_change, item_row, user_change, user_row
from recsys.catalogue_db.connection import SQLITE, connect, database_errors, is_deadlock, url_of
from recsys.catalogue_db.outbox import Headers, Outbox
from recsys.catalogue_db.slot import SlotState, slot_state
from recsys.catalogue_db.slot_outbox import SlotOutbox
from recsys.catalogue_db.tables import ITEMS, OUTBOX, USERS, lane_of
from recsys.catalogue_db.upserts import newest as newest_row
from recsys.catalogue_db.upserts import replacing
from recsys.contracts.changes import C, ItemChange, UserChange, newest
from recsys.contracts.types import Topic
from recsys.settings import Settings

_CHUNK = 500  # rows of one statement
T = TypeVar("T")


@dataclass(frozen=True)
class _Kind:
    """How changes of one topic are stored."""

    topic: Topic
    table: sa.Table
    row: Callable[[Any], dict[str, Any]]
    change: Callable[[Mapping[str, Any]], Any]

    @property
    def key(self) -> sa.Column[str]:
        return next(iter(self.table.primary_key))


_ITEMS = _Kind(Topic.ITEMS, ITEMS, item_row, item_change)
_USERS = _Kind(Topic.USERS, USERS, user_row, user_change)


class CatalogueDatabase:
    """Thread-safe. Every method but `close` may raise `Unavailable`; those that write have then changed nothing, or, if
    the connection was lost during the commit, everything: `repeated` does it again without harm."""

    def __init__(
        self, engine: sa.Engine, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        """`now_ms`: when rows of the outbox were written, for the age of the oldest one."""
        self._engine = engine
        self._dialect = engine.dialect.name
        self._now_ms = now_ms

    @classmethod
    def of(cls, settings: Settings) -> "CatalogueDatabase":
        """The database that `RECSYS_DATABASE_URL` names; it need not be there yet. Raises as `url_of` and `connect`
        do."""
        return cls(connect(url_of(settings), settings.database_timeout_s))

    # --- writing ------------------------------------------------------------------------------------------------

    def put_items(
        self, changes: Sequence[ItemChange], headers: Headers = (), repeated: bool = False
    ) -> list[ItemChange]:
        """Put and delete items; of several changes of an item the last one counts. Returns what was stored and will be
        sent: sorted by id, with a `changed_ms` that is later than that of the item's previous change.

        `repeated`: they may have been stored before, at the same time; of an item that has a later change, nothing is
        stored or sent."""
        return self._put(_ITEMS, changes, headers, repeated)

    def put_users(
        self, changes: Sequence[UserChange], headers: Headers = (), repeated: bool = False
    ) -> list[UserChange]:
        """The same for users' attributes."""
        return self._put(_USERS, changes, headers, repeated)

    def forget_user(self, user_id: str, headers: Headers = ()) -> None:
        """Delete the user, and what of the user waits in the outbox; a tombstone will be sent. Idempotent."""

        def forget(connection: sa.Connection) -> None:
            # taking the row's lock first puts a user that is being written for the first time in order, too
            connection.execute(replacing(USERS, self._dialect), [user_row(UserChange(user_id, None, 0))])
            connection.execute(sa.delete(USERS).where(USERS.c.user_id == user_id))
            waiting = (
                OUTBOX.c.lane == lane_of(user_id),
                OUTBOX.c.topic == Topic.USERS,
                OUTBOX.c.key == user_id,
            )
            connection.execute(sa.delete(OUTBOX).where(*waiting))
            connection.execute(sa.insert(OUTBOX), [self._message(Topic.USERS, user_id, b"", headers)])

        self._transaction(forget)
        if self._dialect == SQLITE:  # the log has the old pages until it is reused
            with database_errors(self._engine.url), self._engine.connect() as connection:
                connection.execute(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"))

    def load_items(self, changes: Sequence[ItemChange]) -> None:
        """Store items that the topics have already: nothing is sent. What is newer here stays."""
        self._load(_ITEMS, changes)

    def load_users(self, changes: Sequence[UserChange]) -> None:
        """The same for users."""
        self._load(_USERS, changes)

    def _put(self, kind: _Kind, changes: Sequence[C], headers: Headers, repeated: bool) -> list[C]:
        latest = sorted({change.key: change for change in changes}.items())
        statement = (newest_row if repeated else replacing)(kind.table, self._dialect)

        def put(connection: sa.Connection) -> list[C]:
            stored: list[C] = []
            for start in range(0, len(latest), _CHUNK):
                chunk = dict(latest[start : start + _CHUNK])
                connection.execute(statement, [kind.row(c) for c in chunk.values()])
                times = sa.select(kind.key, kind.table.c.changed_ms).where(kind.key.in_(chunk))
                found = {key: ms for key, ms in connection.execute(times)}  # noqa: C416
                done = [
                    replace(change, changed_ms=found[key])
                    for key, change in chunk.items()
                    if not repeated or found[key] == change.changed_ms
                ]
                messages = [
                    self._message(kind.topic, c.key, orjson.dumps(c.to_dict()), headers) for c in done
                ]
                if messages:
                    connection.execute(sa.insert(OUTBOX), messages)
                stored += done
            return stored

        return self._transaction(put) if latest else []

    def _load(self, kind: _Kind, changes: Sequence[C]) -> None:
        rows = [kind.row(change) for _, change in sorted(newest(changes).items())]
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            self._transaction(partial(_execute, newest_row(kind.table, self._dialect), chunk))

    def _message(self, topic: Topic, key: str, value: bytes, headers: Headers) -> dict[str, Any]:
        return {
            "lane": lane_of(key),
            "topic": topic.value,
            "key": key,
            "value": value,
            "headers": [[name, content.decode("latin-1")] for name, content in headers],
            "written_ms": self._now_ms(),
        }

    def _transaction(self, work: Callable[[sa.Connection], T]) -> T:
        attempts = Retrying(
            retry=retry_if_exception(is_deadlock),
            stop=stop_after_attempt(5),
            wait=wait_random_exponential(multiplier=0.01, max=0.5),
            reraise=True,
        )

        def once() -> T:
            with self._engine.begin() as connection:
                return work(connection)

        with database_errors(self._engine.url):
            return attempts(once)

    # --- reading ------------------------------------------------------------------------------------------------

    def items(self) -> Iterator[ItemChange]:
        """Every item with its last change, deleted ones too, sorted by the bytes of the id."""
        yield from self._rows(_ITEMS)

    def users(self) -> Iterator[UserChange]:
        """The same for users."""
        yield from self._rows(_USERS)

    def _rows(self, kind: _Kind) -> Iterator[Any]:
        """Page by page: no transaction is open while the caller works."""
        after = ""
        while True:
            page = sa.select(kind.table).where(kind.key > after).order_by(kind.key).limit(_CHUNK)
            with database_errors(self._engine.url), self._engine.connect() as connection:
                rows = connection.execute(page).mappings().all()
            if not rows:
                return
            yield from (kind.change(dict(row)) for row in rows)
            after = rows[-1][kind.key.name]

    def outbox(self) -> Outbox:
        """What waits to be sent; one for each relay."""
        return Outbox(self._engine)

    def slot_outbox(self) -> SlotOutbox:
        """The same in the order of the commits. Raises `InvalidConfig`: it is not PostgreSQL."""
        return SlotOutbox(self._engine)

    def slot_state(self) -> SlotState | None:
        """Of the slot that `slot_outbox` has made; None: there is none."""
        return slot_state(self._engine)

    def close(self) -> None:
        self._engine.dispose()


def _execute(statement: Any, rows: Sequence[Mapping[str, Any]], connection: sa.Connection) -> None:
    connection.execute(statement, rows)
