"""Cell names as integers: eight bytes each in the online store, arrays in serving.

A code is `aggregate << 48 | tile << 16 | bucket`; the aggregate is its index among those of its entity, by name. The
index follows from the feature definitions, so codes are stored together with the definitions' fingerprint.
"""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.state import Op
from recsys.features.aggregates import KEY_MARK, TILE_MARK, Aggregate, Entity, Split, parse_cell

Ints64 = NDArray[np.int64]

CODE_BYTES = 8
_BUCKET_BITS = 16
_TILE_BITS = 32
_CACHED_CELLS = 1 << 16  # the users of one day share most names


def aggregates_of(codes: Ints64) -> Ints64:
    """The index of each code's aggregate."""
    return codes >> (_TILE_BITS + _BUCKET_BITS)


def tiles_of(codes: Ints64) -> Ints64:
    """0 where a cell has none."""
    return codes >> _BUCKET_BITS & ((1 << _TILE_BITS) - 1)


def buckets_of(codes: Ints64) -> Ints64:
    """0 where a cell has none."""
    return codes & ((1 << _BUCKET_BITS) - 1)


class CellCoding:
    """Names and codes of the cells of one entity. Thread-safe."""

    def __init__(self, aggregates: Iterable[Aggregate], entity: Entity) -> None:
        self.aggregates: Sequence[Aggregate] = [a for a in aggregates if a.entity is entity]
        self._numbers = {a.name: number for number, a in enumerate(self.aggregates)}
        # codings of equal shape read each other's codes
        self.shape = tuple((a.name, a.hop_ms, a.split) for a in self.aggregates)
        # functions, not methods: a coding that is no longer used is freed at once, with its caches
        self.code = lru_cache(_CACHED_CELLS)(partial(_code, self._numbers))
        self.name = lru_cache(_CACHED_CELLS)(partial(_name, self.aggregates))

    def op(self, code: int) -> Op:
        return self.aggregates[code >> (_TILE_BITS + _BUCKET_BITS)].op

    def pack(self, cells: Mapping[str, int]) -> tuple[Ints64, Ints64]:
        """Codes and amounts, (n,) int64 each. Cells of other feature sets get the index after the last."""
        if isinstance(cells, PackedCells) and (packed := cells.packed(self)) is not None:
            return packed
        n = len(cells)
        codes = np.fromiter(map(self.code, cells), np.int64, n)
        return codes, np.fromiter(cells.values(), np.int64, n)


def _code(numbers: Mapping[str, int], cell: str) -> int:
    name, tile, bucket = parse_cell(cell)
    number = numbers.get(name, len(numbers))
    return (number << _TILE_BITS | max(tile, 0)) << _BUCKET_BITS | max(bucket, 0)


def _name(aggregates: Sequence[Aggregate], code: int) -> str:
    aggregate = aggregates[code >> (_TILE_BITS + _BUCKET_BITS)]
    tile = code >> _BUCKET_BITS & ((1 << _TILE_BITS) - 1)
    stem = f"{aggregate.name}{TILE_MARK}{tile}" if aggregate.hop_ms else aggregate.name
    bucket = code & ((1 << _BUCKET_BITS) - 1)
    return stem if aggregate.split is Split.NONE else f"{stem}{KEY_MARK}{bucket}"


class PackedCells(MutableMapping[str, int]):
    """Cells as the store sends them: arrays, and a mapping by name on demand."""

    __slots__ = ("_amounts", "_changed", "_codes", "_coding", "_named")

    def __init__(self, coding: CellCoding, codes: Ints64, amounts: Ints64) -> None:
        """`codes`, `amounts`: (n,) int64, each cell once."""
        self._coding = coding
        self._codes, self._amounts = codes, amounts
        self._named: dict[str, int] | None = None  # made on first use
        self._changed = False

    def packed(self, coding: CellCoding) -> tuple[Ints64, Ints64] | None:
        """Codes and amounts, (n,) int64 each; None if the coding differs, or a cell was changed by name."""
        if self._changed or (coding is not self._coding and coding.shape != self._coding.shape):
            return None
        return self._codes, self._amounts

    def _dict(self) -> dict[str, int]:
        if self._named is None:
            names = map(self._coding.name, self._codes.tolist())
            self._named = dict(zip(names, self._amounts.tolist(), strict=True))
        return self._named

    def __getitem__(self, cell: str) -> int:
        return self._dict()[cell]

    def __setitem__(self, cell: str, amount: int) -> None:
        self._dict()[cell] = amount
        self._changed = True

    def __delitem__(self, cell: str) -> None:
        del self._dict()[cell]
        self._changed = True

    def __iter__(self) -> Iterator[str]:
        return iter(self._dict())

    def __len__(self) -> int:
        return len(self._codes) if self._named is None else len(self._named)

    def __repr__(self) -> str:
        return repr(self._dict())
