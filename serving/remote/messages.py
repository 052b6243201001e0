"""What the API and its remote services say to each other, encoded as msgpack."""

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

PREPARE, NEAREST, RANK = "/rpc/prepare", "/rpc/nearest", "/rpc/rank"
_DTYPES = frozenset({"<f4", "<i4", "<i8"})


class Array(msgspec.Struct, frozen=True, array_like=True):
    """A numpy array on the wire: its bytes as they are in memory."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: NDArray[Any]) -> "Array":
        return cls(array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes())

    def numpy(self) -> NDArray[Any]:
        """Read-only. Raises `ValueError`: the bytes are not an array of that shape and an expected dtype."""
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype {self.dtype!r}: expected one of {', '.join(sorted(_DTYPES))}")
        return np.frombuffer(self.data, self.dtype).reshape(self.shape)


class Prepare(msgspec.Struct, frozen=True, array_like=True):
    """Load a bundle before requests need it."""

    version: str


class RankCall(msgspec.Struct, frozen=True, array_like=True):
    """`inputs` are those of `recsys.ranking.scorer.INPUTS`."""

    version: str
    inputs: dict[str, Array]


class NearestCall(msgspec.Struct, frozen=True, array_like=True):
    """A user's encoded history, (1, L) int64 each, profile, (1, PROFILE_SLOTS) int64, the number of items, and what
    they must be: eligible at this time, in this region and by this filter."""

    version: str
    history: Array
    types: Array
    gaps: Array
    profile: Array
    n: int
    now_ms: int
    filter: str
    region: str


class Nearest(msgspec.Struct, frozen=True, array_like=True):
    """(n,) int32 rows of the bundle's item table, the nearest first; -1 - i stands for `newer[i]`."""

    rows: Array
    newer: list[str]
