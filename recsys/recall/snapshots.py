"""A live index on disk: numbered generations of its main index, each with the journal of later changes.

    CURRENT                   the generation to load
    7/index.faiss 7/rows.npy 7/vectors.npy
    7.journal                 changes since generation 7 was cut
    8.journal                 changes since generation 8 was cut, which may still be building

A complete generation appears by a rename; then CURRENT changes by a rename. After a kill in between, the older
generation and both journals give the same items.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.eligible import Eligible
from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.contracts.request import Rows
from recsys.files import atomic_write, staged_folder
from recsys.operator_files import read_text
from recsys.recall.ann import AnnIndex, IndexConfig
from recsys.recall.journal import Change, Journal, replay
from recsys.recall.vector_index import Found, VectorIndex

_CURRENT = "CURRENT"


class BaseIndex(VectorIndex, Protocol):
    """The main index of a live index, which never changes it."""

    @property
    def compressed(self) -> bool:
        """Whether scores may come from codes instead of the vectors."""

    @property
    def selects(self) -> bool:
        """Whether `search` finds eligible rows alone; else it finds others, too."""

    def search(self, queries: NDArray[np.float32], k: int, eligible: Eligible | None = None) -> Found:
        """See `SelectiveIndex.search`."""


@dataclass(frozen=True)
class Base:
    """The main index and what it was built from; immutable.

    rows: (n,) int32, sorted. vectors: (n, d) float32 by place in `rows`; on disk a memory map, so that only the index
    itself needs memory.
    """

    index: BaseIndex
    rows: Rows
    vectors: NDArray[np.float32]

    @classmethod
    def build(
        cls, vectors: NDArray[np.float32], rows: Rows | None = None, config: IndexConfig | None = None
    ) -> Self:
        """Index (n, d) vectors; `rows` are sorted, None: 0 … n - 1."""
        rows = np.arange(len(vectors), dtype=np.int32) if rows is None else rows
        return cls(AnnIndex.build(vectors, config, rows), rows, vectors)

    @property
    def _is_dense(self) -> bool:
        """It holds the rows 0 … n - 1, as that of a bundle."""
        return len(self.rows) > 0 and bool(self.rows[-1] == len(self.rows) - 1)

    def holds(self, rows: Rows) -> bool:
        """Whether all `rows` are surely in the base."""
        return self._is_dense and rows.min(initial=0) >= 0 and bool(rows.max(initial=0) < len(self.rows))

    def vectors_of(self, rows: Rows) -> NDArray[np.float32]:
        """(n, d) of rows that are all in the base."""
        # np.intp: `take` is several times slower with other integers
        places = rows.astype(np.intp) if self._is_dense else np.searchsorted(self.rows, rows)
        return self.vectors.take(places, axis=0)


class Snapshots:
    """The folder of one live index, written by one process."""

    def __init__(self, folder: Path, fsync: bool = False) -> None:
        self._folder = folder
        self._fsync = fsync
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidData(f"{folder}: {error.strerror}; choose another folder for the index") from error

    def current(self) -> int | None:
        """The generation to load; None in an empty folder."""
        try:
            return int(read_text(self._folder / _CURRENT, InvalidData))
        except FileNotFoundError:
            return None
        except (InvalidData, ValueError) as error:
            raise InvalidData(
                f"{self._folder / _CURRENT}: {error}; delete {self._folder} to rebuild"
            ) from error

    def load(self, generation: int) -> Base:
        """
        Raises:
            InvalidData: a file of the generation is missing or unreadable.
        """
        folder = self._folder / str(generation)
        try:
            rows = np.load(folder / "rows.npy", allow_pickle=False)
            vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InvalidData(f"{folder}: {error}; delete {self._folder} to rebuild") from error
        return Base(AnnIndex.load(folder / "index.faiss"), rows, vectors)

    def save(self, generation: int, base: Base) -> Base:
        """Write a generation, make it current and delete the older ones. Returns it as loaded from disk."""
        if not isinstance(base.index, AnnIndex):
            raise InvalidConfig("only an index of this process can be persisted")
        with staged_folder(self._folder / str(generation)) as staging:
            base.index.save(staging / "index.faiss")
            np.save(staging / "rows.npy", base.rows)
            np.save(staging / "vectors.npy", base.vectors)
        atomic_write(self._folder / _CURRENT, f"{generation}\n", fsync=self._fsync)
        self._drop_before(generation)
        return self.load(generation)

    def journal(self, generation: int) -> Journal:
        """The journal of changes since this generation was cut."""
        return Journal(self._folder / f"{generation}.journal", self._fsync)

    def changes(self, generation: int, dimension: int) -> Iterator[Change]:
        """All changes since the generation was cut, from all journals."""
        for number in self._journals():
            if number >= generation:
                yield from replay(self._folder / f"{number}.journal", dimension)

    def newest_journal(self) -> int:
        """Number of the newest journal; 0 when there is none."""
        return max(self._journals(), default=0)

    def _journals(self) -> list[int]:
        return sorted(int(path.stem) for path in self._folder.glob("*.journal"))

    def _drop_before(self, generation: int) -> None:
        for path in self._folder.iterdir():
            number = path.stem.lstrip(".")
            if number.isdigit() and int(number) < generation:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
