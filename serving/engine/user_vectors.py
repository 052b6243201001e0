"""User vectors, cached by history."""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys.recall.item_vectors import LinearPart
from recsys.recall.two_tower import UserTower
from serving.caching.batching import MicroBatcher
from serving.caching.cache import Cache

_Encoded = tuple[NDArray[np.int64], ...]
_KEY_BYTES = 16
_ENTRY_BYTES = 300  # Python's overhead of an entry


class CachedUserTower(UserTower):
    """`UserTower` that caches single queries. The key is all that the vector is made from, so an entry is never stale.
    batch: single queries of several threads that the model may run on together; 1: no batching. wait_s: the longest
    wait of a query for others."""

    def __init__(
        self,
        model: Path | bytes,
        items: NDArray[np.float32],
        max_bytes: int,
        batch: int = 1,
        wait_s: float = 0.0,
        native: bool = False,
        linear: LinearPart | None = None,
    ) -> None:
        super().__init__(model, items, native, linear)
        self.cache: Cache[bytes, NDArray[np.float32]] = Cache(max_bytes, lambda v: v.nbytes + _ENTRY_BYTES)
        self._batcher = MicroBatcher(self._batch, batch, wait_s) if batch > 1 else None

    def vectors(
        self,
        history: NDArray[np.int64],
        types: NDArray[np.int64],
        gaps: NDArray[np.int64],
        profile: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        if len(history) != 1:
            return super().vectors(history, types, gaps, profile)
        whole = b"".join(a.tobytes() for a in (history, types, gaps, profile) if a is not None)
        key = blake2b(whole, digest_size=_KEY_BYTES).digest()
        found = self.cache.get(key)
        if found is None:
            one = tuple(a for a in (history, types, gaps, profile) if a is not None)
            found = self._batcher.call(one) if self._batcher else super().vectors(*one)
            self.cache.put(key, found)
        return found

    def _batch(self, queries: Sequence[_Encoded]) -> list[NDArray[np.float32]]:
        """One run of the model; all queries have the same length L."""
        found = super().vectors(*(np.concatenate(part) for part in zip(*queries, strict=True)))
        return [found[i : i + 1] for i in range(len(queries))]
