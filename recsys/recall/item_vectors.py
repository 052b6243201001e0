"""The item vectors of a bundle (`item_vectors.safetensors`), and what they make of a user's items.

The score of a user and an item is the two-tower's plus that of the linear part, if there is one: EASE (Steck, 2019)
scores an item by the sum of weights, one for each item that the user has. Its n_items × n_items weights are cut to rank
r (`training.two_tower.linear`), so each is a vector of the user's item times one of the candidate. One inner product
gives the sum of both scores: a user's vector is the tower's, then the sum over the user's items; an item's is its own,
then the candidate's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidBundle

Floats = NDArray[np.float32]
_VECTORS, _ATTRIBUTES = "vectors", "attributes"
_HISTORY, _CANDIDATES = "linear_history", "linear_candidates"


def gathered(table: Floats, history: NDArray[np.int64]) -> Floats:
    """(B, L) item numbers → (B, L, d) rows of `table` (n_items, d), number i + 1 having row i; zeros for padding.
    Raises `ValueError`: a number is not of the table."""
    if history.size and not 0 <= history.min() <= history.max() <= len(table):
        raise ValueError(f"item numbers must be in 0 … {len(table)}")
    if not len(table):
        return np.zeros((*history.shape, table.shape[1]), np.float32)
    vectors = table.take(history - 1, axis=0, mode="wrap")
    vectors[history == 0] = 0.0
    return vectors


@dataclass(frozen=True, eq=False)
class LinearPart:
    """Item-to-item weights of rank r. `history` (n_items, r): of an item that the user has; `candidates` (n_items, r):
    of one that is scored."""

    history: Floats
    candidates: Floats

    def of(self, history: NDArray[np.int64]) -> Floats:
        """(B, L) item numbers, 0 for padding → (B, r), the sum over the user's items, each once.
        Raises `ValueError`: a number is not of the table."""
        numbers = np.sort(history, axis=1)
        numbers[:, 1:][numbers[:, 1:] == numbers[:, :-1]] = 0
        return np.asarray(gathered(self.history, numbers).sum(axis=1), np.float32)

    def weighed(self, weight: float) -> "LinearPart":
        """With `weight` times the scores."""
        return LinearPart(self.history * np.float32(weight), self.candidates)


@dataclass(frozen=True, eq=False)
class ItemVectors:
    """vectors: (n_items, d), row i of item i. attributes: (1 + buckets, d), from which later items get vectors; None:
    they get none."""

    vectors: Floats
    attributes: Floats | None = None
    linear: LinearPart | None = None

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Raises `InvalidBundle`: an array is missing, or they do not fit together."""
        vectors, attributes = arrays.get(_VECTORS), arrays.get(_ATTRIBUTES)
        if vectors is None or vectors.ndim != 2:
            raise InvalidBundle(
                f"item_vectors.safetensors: no array {_VECTORS!r} of (n_items, d); train the two-tower again"
            )
        parts = [arrays[name] for name in (_HISTORY, _CANDIDATES) if name in arrays]
        if not parts:
            return cls(vectors, attributes)
        shapes = {(part.ndim, *part.shape) for part in parts}
        if len(parts) == 1 or len(shapes) > 1 or shapes.pop()[:2] != (2, len(vectors)):
            raise InvalidBundle(
                f"item_vectors.safetensors: {_HISTORY} and {_CANDIDATES} must both be (n_items, r), the"
                f" {_VECTORS} are {vectors.shape}; train the two-tower again"
            )
        return cls(vectors, attributes, LinearPart(*parts))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As `of` reads them."""
        found = {_VECTORS: self.vectors}
        if self.attributes is not None:
            found[_ATTRIBUTES] = self.attributes
        if self.linear is not None:
            found |= {_HISTORY: self.linear.history, _CANDIDATES: self.linear.candidates}
        return {name: np.ascontiguousarray(array, np.float32) for name, array in found.items()}

    @property
    def dimension(self) -> int:
        """d, without the linear part."""
        return int(self.vectors.shape[1])

    @cached_property
    def indexed(self) -> Floats:
        """(n_items, d + r): what users' vectors are compared with; a copy where there is a linear part."""
        if self.linear is None:
            return self.vectors
        return np.concatenate((self.vectors, self.linear.candidates), axis=1)

    def __len__(self) -> int:
        return len(self.vectors)
