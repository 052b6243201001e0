"""One immutable state of a live index: its main index, an exact delta, and tombstones."""

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.eligible import Eligible
from recsys.contracts.request import Rows, among
from recsys.recall.rescored import rescore, with_margin
from recsys.recall.snapshots import Base
from recsys.recall.vector_index import NO_ROW, Found

Floats = NDArray[np.float32]

FEW = 20_000  # eligible items up to which reading their vectors is faster than passing by all codes
MANY = 50_000  # the same where an index cannot select, and would be asked for many more than it should return
_COPY_BATCH = 50_000  # vectors copied at a time, so that requests run in between


@dataclass(frozen=True, slots=True)
class View:
    """Never changed once it is published, so a search sees each change entirely or not at all.

    gone: sorted rows of the base that no longer count: removed, or replaced by the delta.
    delta_rows, delta_vectors: (capacity,) and (capacity, d) buffers, shared with other views; the first `n` are valid.
    delta_alive: (n,) bool.
    """

    base: Base
    gone: Rows
    delta_rows: Rows
    delta_vectors: Floats
    delta_alive: NDArray[np.bool_]

    @classmethod
    def of(cls, base: Base) -> Self:
        """The view of a main index without changes."""
        empty = np.empty(0, np.int32)
        return cls(base, empty, empty, np.empty((0, base.index.dimension), np.float32), np.empty(0, bool))

    @property
    def n(self) -> int:
        return len(self.delta_alive)

    @property
    def in_base(self) -> int:
        return len(self.base.rows) - len(self.gone)

    def __len__(self) -> int:
        return self.in_base + int(self.delta_alive.sum())

    def search(self, queries: Floats, k: int, eligible: Eligible | None = None) -> Found:
        if not self.n and not len(self.gone) and eligible is None:
            return self._search_unchanged(queries, k)
        few = eligible is not None and eligible.count <= (FEW if self.base.index.selects else MANY)
        base = self._search_exactly(queries, k, eligible) if eligible and few else None
        parts = [base or self._search_base(queries, k, eligible), self._search_delta(queries, k, eligible)]
        scores = np.concatenate([part.scores for part in parts], axis=1)
        rows = np.concatenate([part.rows for part in parts], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, : min(k, len(self))]
        return Found(np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1))

    def with_room(self, slots: int) -> Self:
        """The same view with buffers of at least `slots` entries."""
        if slots <= len(self.delta_rows):
            return self
        rows = np.empty(2 * slots, np.int32)
        vectors = np.empty((2 * slots, self.base.index.dimension), np.float32)
        rows[: self.n], vectors[: self.n] = self.delta_rows[: self.n], self.delta_vectors[: self.n]
        return replace(self, delta_rows=rows, delta_vectors=vectors)

    def items(self) -> tuple[Floats, Rows]:
        """Vectors and rows of all items in the view, by row."""
        unchanged = np.flatnonzero(~among(self.base.rows, self.gone))
        fresh = np.flatnonzero(self.delta_alive)
        rows = np.concatenate([self.base.rows[unchanged], self.delta_rows[fresh]])
        order = np.argsort(rows)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        vectors = np.empty((len(rows), self.base.index.dimension), np.float32)
        for start in range(0, len(unchanged), _COPY_BATCH):
            some = slice(start, start + _COPY_BATCH)
            vectors[place[: len(unchanged)][some]] = self.base.vectors[unchanged[some]]
        vectors[place[len(unchanged) :]] = self.delta_vectors[fresh]
        return vectors, rows[order]

    def _search_unchanged(self, queries: Floats, k: int) -> Found:
        if not self.base.index.compressed:
            return self.base.index.search(queries, k)
        found = self.base.index.search(queries, with_margin(k))
        return rescore(found, queries, self.base.vectors_of, k)

    def _search_exactly(self, queries: Floats, k: int, eligible: Eligible) -> Found:
        """The eligible rows of the base alone, by their vectors."""
        rows = eligible.rows
        if not self.base.holds(rows):
            rows = rows[among(rows, self.base.rows)]
        if len(self.gone):
            rows = rows[~among(rows, self.gone)]
        return _best(queries @ self.base.vectors_of(rows).T, rows, k)

    def _search_base(self, queries: Floats, k: int, eligible: Eligible | None) -> Found:
        """Ask for enough that k remain without tombstones and what is not eligible; where fewer remain, ask again for
        twice as many."""
        index = self.base.index
        n, wanted = len(self.base.rows), min(with_margin(k) if index.compressed else k, self.in_base)
        asked = min(n, wanted + 2 * wanted * len(self.gone) // max(n, 1) + min(len(self.gone), 16))
        if eligible is not None and not index.selects:
            asked = min(n, math.ceil(asked / max(eligible.share, 1e-9)))
        while True:
            scores, rows = index.search(queries, max(asked, 1), eligible)
            found = rows != NO_ROW
            alive = found & ~among(rows, self.gone)
            if eligible is not None:
                alive &= eligible.of(rows)
            # an index that returned fewer than asked, or has a limit, has no more to give
            if (
                asked >= n
                or rows.shape[1] < asked
                or (~found.all(axis=1) | (alive.sum(axis=1) >= wanted)).all()
            ):
                break
            asked = min(n, 2 * asked)
        remaining = Found(np.where(alive, scores, np.float32(-np.inf)), np.where(alive, rows, NO_ROW))
        return rescore(remaining, queries, self.base.vectors_of, k) if index.compressed else remaining

    def _search_delta(self, queries: Floats, k: int, eligible: Eligible | None) -> Found:
        alive = self.delta_alive
        if eligible is not None:
            alive = alive & eligible.of(self.delta_rows[: self.n])
        scores = queries @ self.delta_vectors[: self.n].T
        scores[:, ~alive] = -np.inf
        return _best(scores, np.where(alive, self.delta_rows[: self.n], NO_ROW), k)


def _best(scores: Floats, rows: Rows, k: int) -> Found:
    """(B, n) scores of n rows → the k best, in any order."""
    if len(rows) <= k:
        return Found(scores, np.broadcast_to(rows, scores.shape))
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    return Found(np.take_along_axis(scores, best, axis=1), rows[best])
