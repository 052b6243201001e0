"""Whose features an event enters: those of its user, and of the users that the id belongs to (`Merges`).

The kernels sum by *owner*. The owner of an example is its user, or the user's era: the user as of the instants with
the same members. An event has a row for each owner whose features it enters, so the kernels need not know of merges.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.contracts.merges import KEY_SEPARATOR, Merges, UserMerge
from recsys.lake.merges import merges_of, merges_table
from training.features.arrow_columns import OWNER, TIME

NO_MERGES = Merges()


class MergeColumns:
    """All merges of a log as columns, which every executor can hold; a bucket needs those of its users."""

    def __init__(self, merges: Sequence[UserMerge]) -> None:
        table, every = merges_table(merges), Merges(merges)
        self._table = table.append_column("home", homes_of(table.column("user_id"), every))

    def of(self, events: pa.Table) -> Merges:
        """Those of the users of a bucket, and of all that may be members of them."""
        if not len(self._table):
            return NO_MERGES
        users = pc.unique(events.column("user_id"))
        theirs = pc.or_(*(pc.is_in(self._table.column(side), users) for side in ("user_id", "into")))
        homes = pc.unique(self._table.column("home").filter(theirs))
        return Merges(merges_of(self._table.filter(pc.is_in(self._table.column("home"), homes))))


def owned(examples: pa.Table, events: pa.Table, merges: Merges) -> tuple[pa.Table, pa.Table]:
    """Both with the column `OWNER`. `events`: all of all members of the examples' users; they get their copies."""
    if not merges.ids:
        return _alone(examples), _alone(events)
    copies: dict[str, list[str]] = defaultdict(list)  # id → the eras that it is a member in
    users = examples.column("user_id").combine_chunks().dictionary_encode()
    codes, times = np.asarray(users.indices), np.asarray(examples.column(TIME))
    owners = np.array(users.to_pylist(), object)
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(users.dictionary) + 1))
    for place, user_id in enumerate(users.dictionary.to_pylist()):
        rows, eras = order[bounds[place] : bounds[place + 1]], merges.eras(user_id)
        number = np.searchsorted([since_ms for since_ms, _ in eras], times[rows])
        for era in np.unique(number[number > 0]).tolist():
            name = f"{user_id}{KEY_SEPARATOR}{era}"
            owners[rows[number == era]] = name
            for member in eras[era - 1][1]:
                copies[member].append(name)
    return examples.append_column(OWNER, pa.array(owners, pa.string())), _with_copies(events, copies)


def of_persons(events: pa.Table, merges: Merges) -> pa.Table:
    """Each event once, its `OWNER` the user that its id belongs to in the end."""
    return events.append_column(OWNER, _each(events.column("user_id"), merges, merges.person_of))


def homes_of(users: pa.ChunkedArray, merges: Merges) -> pa.ChunkedArray:
    """The same id for all users that may be members of one another."""
    return _each(users, merges, merges.home_of)


def _each(users: pa.ChunkedArray, merges: Merges, of: Callable[[str], str]) -> pa.ChunkedArray:
    if not merges.ids:
        return users
    encoded = users.combine_chunks().dictionary_encode()
    found = pa.array([of(user_id) for user_id in encoded.dictionary.to_pylist()], pa.string())
    return pa.chunked_array([found.take(encoded.indices)])


def _alone(rows: pa.Table) -> pa.Table:
    return rows.append_column(OWNER, rows.column("user_id"))


def _with_copies(events: pa.Table, copies: dict[str, list[str]]) -> pa.Table:
    events, members = _alone(events), list(copies)
    place = pc.index_in(events.column("user_id"), value_set=pa.array(members, pa.string()))
    rows = np.flatnonzero(np.asarray(pc.is_valid(place)))
    eras = [copies[members[n]] for n in place.take(pa.array(rows)).to_pylist()]
    copied = events.take(pa.array(np.repeat(rows, [len(names) for names in eras])))
    names = pa.array([name for of_row in eras for name in of_row], pa.string())
    return pa.concat_tables([events, copied.set_column(copied.schema.get_field_index(OWNER), OWNER, names)])
