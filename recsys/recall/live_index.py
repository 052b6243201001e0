"""An index that changes while it is searched: a main index, an exact delta of fresh items, and tombstones.

FAISS indexes cannot be searched and changed at once, so the main index never changes. What is new or replaced is
searched exactly beside it, what is gone is left out of its results; when that has become much, a new main index is
built in the background and takes its place. What a compressed main index finds is scored again by the float vectors,
so that its scores and those of the delta can be compared.

A search reads one `_View`, which is never changed once it is published: it sees each change entirely or not at all.
A writer publishes a new view by one assignment. Vectors are appended to a buffer that older views share: they know
how much of it is theirs.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.request import Rows, among
from recsys.recall.ann import IndexConfig
from recsys.recall.journal import Change, Journal, Operation
from recsys.recall.rescored import rescore, with_margin
from recsys.recall.snapshots import Base, Snapshots
from recsys.recall.vector_index import NO_ROW, Found, check_queries, check_vectors

Floats = NDArray[np.float32]

REBUILD_AT = 10_000  # changes; the delta is then searched in about half a millisecond
_GATHER = 50_000  # vectors copied at a time: requests run in between


@dataclass(frozen=True, slots=True)
class _View:
    """One state of the index.

    gone: sorted rows of the base that no longer count: removed, or replaced by the delta.
    delta_rows, delta_vectors: buffers, (capacity,) and (capacity, d); the first `n` are this view's.
    delta_alive: (n,) bool.
    """

    base: Base
    gone: Rows
    delta_rows: Rows
    delta_vectors: Floats
    delta_alive: NDArray[np.bool_]

    @property
    def n(self) -> int:
        return len(self.delta_alive)

    @property
    def in_base(self) -> int:
        return len(self.base.rows) - len(self.gone)

    def __len__(self) -> int:
        return self.in_base + int(self.delta_alive.sum())

    def search(self, queries: Floats, k: int) -> Found:
        if not self.n and not len(self.gone):
            return self._search_unchanged(queries, k)
        parts = [self._search_base(queries, k), self._search_delta(queries, k)]
        scores = np.concatenate([part.scores for part in parts], axis=1)
        rows = np.concatenate([part.rows for part in parts], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, : min(k, len(self))]
        return Found(np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1))

    def _search_unchanged(self, queries: Floats, k: int) -> Found:
        if not self.base.index.compressed:
            return self.base.index.search(queries, k)
        found = self.base.index.search(queries, with_margin(k))
        return rescore(found, queries, self.base.vectors_of, k)

    def _search_base(self, queries: Floats, k: int) -> Found:
        """Ask for so many more that k living ones are left; ask again for twice as many where they are not."""
        compressed = self.base.index.compressed
        n, wanted = len(self.base.rows), min(with_margin(k) if compressed else k, self.in_base)
        asked = min(n, wanted + 2 * wanted * len(self.gone) // max(n, 1) + min(len(self.gone), 16))
        while True:
            scores, rows = self.base.index.search(queries, max(asked, 1))
            found = rows != NO_ROW
            alive = found & ~among(rows, self.gone)
            # an approximate index that has found less than it was asked for has no more to give
            if asked >= n or (~found.all(axis=1) | (alive.sum(axis=1) >= wanted)).all():
                break
            asked = min(n, 2 * asked)
        living = Found(np.where(alive, scores, np.float32(-np.inf)), np.where(alive, rows, NO_ROW))
        return rescore(living, queries, self.base.vectors_of, k) if compressed else living

    def _search_delta(self, queries: Floats, k: int) -> Found:
        scores = queries @ self.delta_vectors[: self.n].T
        scores[:, ~self.delta_alive] = -np.inf
        rows = np.where(self.delta_alive, self.delta_rows[: self.n], NO_ROW)
        if self.n <= k:
            return Found(scores, np.broadcast_to(rows, scores.shape))
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        return Found(np.take_along_axis(scores, best, axis=1), rows[best])


class LiveIndex:
    """`MutableIndex` in this process. Searches need no lock; changes take turns."""

    def __init__(
        self,
        base: Base,
        config: IndexConfig | None = None,
        rebuild_at: int | None = REBUILD_AT,
        snapshots: Snapshots | None = None,
    ) -> None:
        """
        Args:
            config: of rebuilt main indexes; None: by the number of items.
            rebuild_at: changes after which the main index is rebuilt in a thread; None: `rebuild` only.
            snapshots: where it is persisted (then use `create` or `open`); None: in memory only.
        """
        self.rebuild_error = ""
        self.rebuilds = 0
        self._config = config
        self._rebuild_at = rebuild_at
        self._rebuild_due = rebuild_at
        self._snapshots = snapshots
        self._journal: Journal | None = None
        self._generation = 0
        self._write = threading.Lock()
        self._rebuilding = threading.Lock()
        self._thread: threading.Thread | None = None
        self._slots: dict[int, int] = {}  # row → its place in the delta
        self._touched: set[int] | None = None  # rows changed since the cut of the rebuild that runs
        self._view = _fresh_view(base)

    @classmethod
    def build(
        cls,
        vectors: Floats,
        rows: Rows | None = None,
        config: IndexConfig | None = None,
        rebuild_at: int | None = REBUILD_AT,
    ) -> Self:
        """In memory, from (n, d) vectors; `rows` as of `AnnIndex.build`."""
        return cls(Base.build(vectors, rows, config), config, rebuild_at)

    @classmethod
    def create(
        cls,
        folder: Path,
        base: Base,
        config: IndexConfig | None = None,
        rebuild_at: int | None = REBUILD_AT,
    ) -> Self:
        """Begin a persisted index.

        Raises:
            InvalidConfig: the folder holds one already.
        """
        snapshots = Snapshots(folder)
        if snapshots.current() is not None:
            raise InvalidConfig(f"{folder} holds an index already: open it, or delete the folder")
        return cls(snapshots.save(1, base), config, rebuild_at, snapshots)._resume(snapshots, 1)

    @classmethod
    def open(
        cls, folder: Path, config: IndexConfig | None = None, rebuild_at: int | None = REBUILD_AT
    ) -> Self:
        """Recover a persisted index with every change that was acknowledged.

        Raises:
            InvalidConfig: the folder holds none.
            InvalidData: what it holds is damaged.
        """
        snapshots = Snapshots(folder)
        generation = snapshots.current()
        if generation is None:
            raise InvalidConfig(f"{folder} holds no index: create one first")
        return cls(snapshots.load(generation), config, rebuild_at, snapshots)._resume(snapshots, generation)

    @property
    def dimension(self) -> int:
        return self._view.base.index.dimension

    def __len__(self) -> int:
        return len(self._view)

    @property
    def pending(self) -> int:
        """Changes that the next rebuild will take into the main index."""
        view = self._view
        return view.n + len(view.gone)

    def search(self, queries: Floats, k: int) -> Found:
        """See `VectorIndex.search`. Exact in the delta, as good as its kind in the main index."""
        return self._view.search(check_queries(queries, k, self.dimension), k)

    def vectors(self, rows: Rows) -> Floats:
        """(n, d) float32; zeros for rows that the index does not hold."""
        found = np.zeros((len(rows), self.dimension), np.float32)
        with self._write:
            view = self._view
            held = np.flatnonzero(among(rows, view.base.rows) & ~among(rows, view.gone))
            found[held] = view.base.vectors_of(rows[held])
            for place, row in enumerate(rows.tolist()):
                if row in self._slots:
                    found[place] = view.delta_vectors[self._slots[row]]
        return found

    def upsert(self, rows: Rows | Sequence[int], vectors: Floats) -> None:
        """See `MutableIndex.upsert`."""
        rows, vectors = check_vectors(np.asarray(rows, np.int32), vectors, self.dimension)
        self._change(Change(Operation.UPSERT, rows, vectors))

    def remove(self, rows: Rows | Sequence[int]) -> None:
        """See `MutableIndex.remove`."""
        gone = np.unique(np.asarray(rows, np.int32))
        self._change(Change(Operation.REMOVE, gone, np.empty((0, self.dimension), np.float32)))

    def rebuild(self) -> None:
        """Build a main index of everything there is now and put it in place. Searches and changes go on meanwhile."""
        with self._rebuilding:
            view = self._cut()
            try:
                base = Base.build(*_living(view), self._config)
                if self._snapshots is not None:
                    base = self._snapshots.save(self._generation, base)
            except BaseException:
                with self._write:
                    self._touched = None
                raise
            with self._write:
                self._swap(base, view.n)
            self.rebuilds += 1

    def close(self) -> None:
        """Wait for a rebuild that runs, and close the journal."""
        if self._thread is not None:
            self._thread.join()
        with self._write:
            if self._journal is not None:
                self._journal.close()

    def _change(self, change: Change) -> None:
        if not len(change.rows):
            return
        with self._write:
            if self._journal is not None:
                self._journal.append(change)
            self._apply(change)
            if self._touched is not None:
                self._touched.update(change.rows.tolist())
            if self._rebuild_due is not None and self.pending >= self._rebuild_due:
                self._start_rebuild()

    def _apply(self, change: Change) -> None:
        """Publish the view after the change."""
        view = self._view
        rows = change.rows
        hit = rows[among(rows, view.base.rows)]
        gone = np.union1d(view.gone, hit).astype(np.int32) if len(hit) else view.gone
        alive = np.append(view.delta_alive, np.ones(len(change.vectors), bool))
        alive[[self._slots.pop(row) for row in rows.tolist() if row in self._slots]] = False
        view = _with_room(view, len(alive))
        if change.operation is Operation.UPSERT:
            new = slice(view.n, len(alive))
            view.delta_rows[new], view.delta_vectors[new] = rows, change.vectors
            self._slots.update(zip(rows.tolist(), range(view.n, len(alive)), strict=True))
        self._view = replace(view, gone=gone, delta_alive=alive)

    def _resume(self, snapshots: Snapshots, generation: int) -> Self:
        """Apply what the journals say and go on with the newest."""
        for change in snapshots.changes(generation, self.dimension):
            self._apply(change)
        self._generation = max(generation, snapshots.newest_journal())
        self._journal = snapshots.journal(self._generation)
        return self

    def _start_rebuild(self) -> None:
        if self._touched is not None or (self._thread is not None and self._thread.is_alive()):
            return
        self._thread = threading.Thread(target=self._rebuild_quietly, name="index-rebuild", daemon=True)
        self._thread.start()

    def _rebuild_quietly(self) -> None:
        try:
            self.rebuild()
            self.rebuild_error, self._rebuild_due = "", self._rebuild_at
        except Exception as error:  # the old index goes on; tried again after as many changes more
            self.rebuild_error = f"{type(error).__name__}: {error}"
            self._rebuild_due = self.pending + (self._rebuild_at or 0)

    def _cut(self) -> _View:
        """What the rebuild takes in. Later changes are remembered, and go into the next journal."""
        with self._write:
            self._touched = set()
            if self._snapshots is not None and self._journal is not None:
                self._journal.close()
                self._generation += 1
                self._journal = self._snapshots.journal(self._generation)
            return self._view

    def _swap(self, base: Base, cut: int) -> None:
        """Put the new base in place; what has changed since the cut stays in the delta and the tombstones."""
        old, touched = self._view, np.array(sorted(self._touched or ()), np.int32)
        later = np.flatnonzero(old.delta_alive[cut:]) + cut
        view = _with_room(_fresh_view(base), len(later))
        view.delta_rows[: len(later)] = old.delta_rows[later]
        view.delta_vectors[: len(later)] = old.delta_vectors[later]
        self._slots = {int(row): slot for slot, row in enumerate(old.delta_rows[later])}
        self._touched = None
        self._view = replace(
            view, gone=touched[among(touched, base.rows)], delta_alive=np.ones(len(later), bool)
        )


def _fresh_view(base: Base) -> _View:
    empty = np.empty(0, np.int32)
    return _View(base, empty, empty, np.empty((0, base.index.dimension), np.float32), np.empty(0, bool))


def _with_room(view: _View, slots: int) -> _View:
    """The same view, with buffers of at least so many slots."""
    if slots <= len(view.delta_rows):
        return view
    rows = np.empty(2 * slots, np.int32)
    vectors = np.empty((2 * slots, view.base.index.dimension), np.float32)
    rows[: view.n], vectors[: view.n] = view.delta_rows[: view.n], view.delta_vectors[: view.n]
    return replace(view, delta_rows=rows, delta_vectors=vectors)


def _living(view: _View) -> tuple[Floats, Rows]:
    """Vectors and rows of everything in the view, by row."""
    kept = np.flatnonzero(~among(view.base.rows, view.gone))
    fresh = np.flatnonzero(view.delta_alive)
    rows = np.concatenate([view.base.rows[kept], view.delta_rows[fresh]])
    order = np.argsort(rows)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    vectors = np.empty((len(rows), view.base.index.dimension), np.float32)
    for start in range(0, len(kept), _GATHER):
        some = slice(start, start + _GATHER)
        vectors[place[: len(kept)][some]] = view.base.vectors[kept[some]]
    vectors[place[len(kept) :]] = view.delta_vectors[fresh]
    return vectors, rows[order]
