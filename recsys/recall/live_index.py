"""An index that changes while it is searched: a main index, an exact delta of new items, and tombstones.

A FAISS index cannot be searched and changed at once, so the main index never changes. New and replaced items are
searched exactly next to it; removed ones are left out of its results. After enough changes, a thread builds a new main
index, which takes the old one's place. Results of a compressed main index are rescored by the float vectors, so that
they are comparable with those of the delta.

A writer publishes a new `View` by one assignment; a search reads one view and takes no lock.
"""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np

from recsys.contracts.eligible import Eligible
from recsys.contracts.errors import InvalidConfig
from recsys.contracts.request import Rows, among
from recsys.recall.ann import IndexConfig
from recsys.recall.index_view import Floats, View
from recsys.recall.journal import Change, Journal, Operation
from recsys.recall.snapshots import Base, Snapshots
from recsys.recall.vector_index import Found, check_queries, check_vectors

REBUILD_AT = 10_000  # changes; searching the delta then takes about half a millisecond


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
            rebuild_at: changes after which a thread rebuilds the main index; None: only by `rebuild`.
            snapshots: where the index is persisted (then use `create` or `open`); None: in memory only.
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
        self._touched: set[int] | None = None  # rows changed since the running rebuild began
        self._view = View.of(base)

    @classmethod
    def build(
        cls,
        vectors: Floats,
        rows: Rows | None = None,
        config: IndexConfig | None = None,
        rebuild_at: int | None = REBUILD_AT,
    ) -> Self:
        """In memory, from (n, d) vectors; `rows` as in `AnnIndex.build`."""
        return cls(Base.build(vectors, rows, config), config, rebuild_at)

    @classmethod
    def create(
        cls,
        folder: Path,
        base: Base,
        config: IndexConfig | None = None,
        rebuild_at: int | None = REBUILD_AT,
    ) -> Self:
        """Create a persisted index.

        Raises:
            InvalidConfig: the folder already holds one.
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
            InvalidData: its files are damaged.
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
        """Number of changes that the next rebuild takes into the main index."""
        view = self._view
        return view.n + len(view.gone)

    def search(self, queries: Floats, k: int, eligible: Eligible | None = None) -> Found:
        """See `SelectiveIndex.search`. The delta is exact, and so is a search among few; the main index is as good as
        its kind."""
        return self._view.search(check_queries(queries, k, self.dimension), k, eligible)

    def vectors(self, rows: Rows) -> Floats:
        """(n, d) float32; zeros for rows that the index does not hold."""
        with self._write:
            view = self._view
            if not self._slots and not len(view.gone) and view.base.holds(rows):
                return view.base.vectors_of(rows)  # the usual case
            found = np.zeros((len(rows), self.dimension), np.float32)
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
        """Replace the main index by one of all current items. Searches and changes continue meanwhile."""
        with self._rebuilding:
            view = self._cut()
            try:
                base = Base.build(*view.items(), self._config)
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
        """Wait for a running rebuild and close the journal."""
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
        view = view.with_room(len(alive))
        if change.operation is Operation.UPSERT:
            new = slice(view.n, len(alive))
            view.delta_rows[new], view.delta_vectors[new] = rows, change.vectors
            self._slots.update(zip(rows.tolist(), range(view.n, len(alive)), strict=True))
        self._view = replace(view, gone=gone, delta_alive=alive)

    def _resume(self, snapshots: Snapshots, generation: int) -> Self:
        """Apply the journals and continue with the newest."""
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
        except Exception as error:  # keep the old index; retry after as many changes again
            self.rebuild_error = f"{type(error).__name__}: {error}"
            self._rebuild_due = self.pending + (self._rebuild_at or 0)

    def _cut(self) -> View:
        """The view that the rebuild takes in. Later changes are recorded, and go into the next journal."""
        with self._write:
            self._touched = set()
            if self._snapshots is not None and self._journal is not None:
                self._journal.close()
                self._generation += 1
                self._journal = self._snapshots.journal(self._generation)
            return self._view

    def _swap(self, base: Base, cut: int) -> None:
        """Publish the new base; changes since the cut stay in the delta and the tombstones."""
        old, touched = self._view, np.array(sorted(self._touched or ()), np.int32)
        later = np.flatnonzero(old.delta_alive[cut:]) + cut
        view = View.of(base).with_room(len(later))
        view.delta_rows[: len(later)] = old.delta_rows[later]
        view.delta_vectors[: len(later)] = old.delta_vectors[later]
        self._slots = {int(row): slot for slot, row in enumerate(old.delta_rows[later])}
        self._touched = None
        self._view = replace(
            view, gone=touched[among(touched, base.rows)], delta_alive=np.ones(len(later), bool)
        )
