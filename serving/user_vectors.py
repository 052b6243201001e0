"""User vectors by history: a user whose history has not changed is not encoded again."""

from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys.recall.two_tower import UserTower
from serving.cache import Cache

_KEY_BYTES = 16
_ENTRY_BYTES = 300  # Python's own part of an entry


class CachedUserTower(UserTower):
    """`UserTower` that remembers single queries. The key is the model's whole input, so it can never be stale."""

    def __init__(self, model: Path | bytes, max_bytes: int) -> None:
        super().__init__(model)
        self.cache: Cache[bytes, NDArray[np.float32]] = Cache(max_bytes, lambda v: v.nbytes + _ENTRY_BYTES)

    def vectors(
        self, history: NDArray[np.int64], types: NDArray[np.int64], gaps: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        if len(history) != 1:
            return super().vectors(history, types, gaps)
        key = blake2b(history.tobytes() + types.tobytes() + gaps.tobytes(), digest_size=_KEY_BYTES).digest()
        found = self.cache.get(key)
        if found is None:
            found = super().vectors(history, types, gaps)
            self.cache.put(key, found)
        return found
