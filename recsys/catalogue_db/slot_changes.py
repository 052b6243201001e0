"""What a slot tells: which rows were inserted into the outbox, transaction by transaction, in the order of the commits.

The output plugin is PostgreSQL's own, pgoutput; of each message only the row's number is fetched.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from recsys.catalogue_db.slot import PUBLICATION

_MESSAGES = 3  # of a transaction with one row: begin, insert, commit

_PEEK = sa.text("""
SELECT lsn::text, xid::text::bigint, substring(data FOR 40)
FROM pg_logical_slot_peek_binary_changes(
  :slot, CAST(:upto AS pg_lsn), CAST(:rows AS int), 'proto_version', '1', 'publication_names', :publication)
""")
_SNAPSHOT = sa.text("SELECT pg_current_snapshot()::text")


@dataclass(frozen=True, slots=True)
class Transaction:
    numbers: Sequence[int]
    end: str  # its position in the log


def read(connection: sa.Connection, slot: str, upto: str, most: int) -> list[Transaction]:
    """About `most` rows that were committed since the slot was moved, as far as they can be seen. The last transaction
    has no rows and ends at `upto` if the log has no others before that position."""
    limit = _MESSAGES * most
    asked = {"slot": slot, "upto": upto, "rows": limit, "publication": PUBLICATION}
    messages = connection.execute(_PEEK, asked).all()
    snapshot = Snapshot(connection.execute(_SNAPSHOT).scalar_one())
    told: list[Transaction] = []
    numbers: list[int] = []
    for position, xid, data in messages:
        if data[:1] == b"I":
            numbers.append(_number(data))
        elif data[:1] == b"C":
            if not snapshot.sees(xid):
                return told
            told.append(Transaction(numbers, position))
            numbers = []
    return told if len(messages) >= limit else [*told, Transaction((), upto)]


def first(told: Sequence[Transaction], most: int) -> tuple[list[int], str, Sequence[Transaction]]:
    """The numbers of the first transactions, until there are `most`; the position after them; the other transactions.

    >>> first([Transaction([4, 5], "0/1"), Transaction([3], "0/2"), Transaction([], "0/3")], 2)
    ([4, 5], '0/1', [Transaction(numbers=[3], end='0/2'), Transaction(numbers=[], end='0/3')])
    """
    numbers: list[int] = []
    taken = 0
    while taken < len(told) and len(numbers) < most:
        numbers += told[taken].numbers
        taken += 1
    return numbers, told[taken - 1].end, told[taken:]


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


def _number(insert: bytes) -> int:
    """The first column of pgoutput's message: I, relation (4 bytes), N, columns (2), t, length (4), text."""
    length = int.from_bytes(insert[9:13], "big")
    return int(insert[13 : 13 + length])
