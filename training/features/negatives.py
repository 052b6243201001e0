"""Negatives of logs without impressions: items that the user might have chosen at that instant and did not.

They are drawn by their popularity up to then, without those that the user knew. Where people come back to items, this
would teach the ranker that whatever a user knows is chosen: there, known items are drawn, too, one of them from the
user's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.contracts.types import MS_PER_DAY
from recsys.recall.repeat_consumption import LEAST_RETURNING
from training.features.arrow_columns import TIME
from training.features.user_log import UserLog

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # of splitmix64
_DRAWS = 3  # candidates drawn per negative: some are known to the user, or repeat


@dataclass(frozen=True)
class Popularity:
    """All users' engagements by time: drawing one before t draws an item by its popularity at t.

    `times` (m,) int64 ascending, `items` (m,) int32 rows of the lists. `returning`: share of the choices that come back
    to an item on another day.
    """

    times: NDArray[np.int64]
    items: NDArray[np.int32]
    ids: list[str] = field(default_factory=list)
    categories: list[str | None] = field(default_factory=list)
    creators: list[str | None] = field(default_factory=list)
    returning: float = 0.0

    @classmethod
    def of(cls, engagements: pa.Table) -> Self:
        """Of rows with the ids of user, item and event, the time, categories and creator; an item is described by its
        newest row."""
        rows = engagements.sort_by([(TIME, "ascending"), ("event_id", "ascending")]).combine_chunks()
        encoded = rows.column("item_id").combine_chunks().dictionary_encode()
        items, times = np.asarray(encoded.indices, np.int32), np.asarray(rows.column(TIME), np.int64)
        _, newest = np.unique(items[::-1], return_index=True)
        described = rows.take(pa.array(len(items) - 1 - newest))
        return cls(
            times=times,
            items=items,
            ids=encoded.dictionary.to_pylist(),
            categories=described.column("categories").to_pylist(),
            creators=described.column("creator").to_pylist(),
            returning=returning(rows.column("user_id"), items, times),
        )

    def drawn(self, times: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """(n, k) in [0, 1) → (n, k) rows of items that were popular before each time; -1: nothing was."""
        before = np.searchsorted(self.times, times)
        rows = self.items[(uniform * before[:, None]).astype(np.int64)].astype(np.int64)
        rows[before == 0] = -1
        return rows

    def rows_of(self, ids: Sequence[str | None]) -> NDArray[np.int64]:
        """(n,) rows; -1 for unknown items."""
        rows = pc.index_in(pa.array(ids, pa.string()), value_set=pa.array(self.ids, pa.string()))
        return np.asarray(pc.fill_null(rows, -1), np.int64)


def returning(users: pa.ChunkedArray, items: NDArray[np.int32], times: NDArray[np.int64]) -> float:
    """Share of the choices that come back to an item: a choice is a (user, item, day). `users`: of the same rows."""
    codes = np.asarray(users.combine_chunks().dictionary_encode().indices, np.int64)
    pairs = codes * (int(items.max(initial=0)) + 1) + items
    days = np.unique(np.stack((pairs, times // MS_PER_DAY)), axis=1).shape[1]
    return 1 - np.unique(pairs).size / days if days else 0.0


def negatives(
    examples: pa.Table, log: UserLog, popularity: Popularity, wanted: int, window_ms: int, seed: int
) -> pa.Table:
    """Up to `wanted` rows for each example, and where people come back one of the user's own items.

    Args:
        window_ms: where people come back, an item that the user engages with within this time is no negative.
        seed: the same examples and seed give the same rows.
    """
    n = examples.num_rows
    if not n or not popularity.ids:
        return examples.slice(0, 0)
    times, users = np.asarray(examples.column(TIME), np.int64), examples.column("user_id")
    hashes = (blake2b(f"{seed} {i}".encode(), digest_size=8).digest() for i in _ids(examples))
    uniform = _uniform(np.frombuffer(b"".join(hashes), "<u8"), wanted * _DRAWS + _DRAWS)
    popular, own = popularity.drawn(times, uniform[:, :-_DRAWS]), np.empty((n, 0), np.int64)
    comes_back = popularity.returning >= LEAST_RETURNING
    if comes_back:
        own = popularity.rows_of(log.earlier_items(users, times, uniform[:, -_DRAWS:])).reshape(n, -1)
    drawn = np.concatenate((own, popular), axis=1)

    owner = np.repeat(np.arange(n), drawn.shape[1])
    asked, at = [popularity.ids[row] for row in drawn.ravel()], times[owner]
    since, until = (np.maximum(at - window_ms, 0), at + window_ms) if comes_back else (0 * at, at)
    free = log.next_engaged_ms(users.take(pa.array(owner)), asked, since) > until
    fits = (drawn >= 0) & free.reshape(drawn.shape) & _is_first(drawn)
    split = own.shape[1]
    chosen = np.concatenate((_at_most(1, fits[:, :split]), _at_most(wanted, fits[:, split:])), axis=1)
    ranks = np.cumsum(chosen, axis=1) - 1
    return _rows(examples, popularity, np.nonzero(chosen)[0], drawn[chosen], ranks[chosen])


def _rows(
    examples: pa.Table,
    popularity: Popularity,
    owner: NDArray[np.intp],
    drawn: NDArray[np.int64],
    ranks: NDArray[np.intp],
) -> pa.Table:
    """The examples at `owner` with the drawn items instead of theirs, and no outcome."""
    table, ids = examples.take(pa.array(owner)), _ids(examples)
    of_items: dict[str, Sequence[str | None]] = {
        "item_id": popularity.ids,
        "categories": popularity.categories,
        "creator": popularity.creators,
    }
    zero = pa.array(np.zeros(owner.size, np.int8))
    replaced = {
        "example_id": pa.array([f"{ids[o]}-{r}" for o, r in zip(owner, ranks, strict=True)], pa.string()),
        **{name: pa.array([texts[i] for i in drawn], pa.string()) for name, texts in of_items.items()},
        **dict.fromkeys(("click", "conversion", "like"), zero),
        "dwell_ms": zero.cast(pa.int64()),
        "sampled": pa.array(np.ones(owner.size, bool)),
    }
    return pa.table({name: replaced.get(name, table.column(name)) for name in table.column_names})


def _ids(examples: pa.Table) -> list[str]:
    ids: list[str] = examples.column("example_id").to_pylist()
    return ids


def _is_first(drawn: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Of equal entries of a row, the first."""
    keys = np.arange(len(drawn))[:, None] * (drawn.max(initial=0) + 2) + drawn
    first = np.zeros(drawn.size, np.bool_)
    first[np.unique(keys, return_index=True)[1]] = True
    return first.reshape(drawn.shape)


def _at_most(most: int, fits: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The first ones of each row."""
    return fits & (np.cumsum(fits, axis=1) <= most)


def _uniform(seeds: NDArray[np.uint64], draws: int) -> NDArray[np.float64]:
    """(n, draws) numbers in [0, 1) by splitmix64 from each seed."""
    state = seeds[:, None] + _GOLDEN * np.arange(1, draws + 1, dtype=np.uint64)
    state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    uniform: NDArray[np.float64] = (state >> np.uint64(11)) * 2.0**-53
    return uniform
