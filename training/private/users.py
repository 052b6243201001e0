"""Training rows by user, in blocks of users with about equally many rows, so that padding costs little."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.ranker.dataset import RankExamples
from training.ranker.loop import Inputs, inputs_of

_BLOCK_ROWS, _BLOCK_USERS = 4096, 512  # bound the memory of rows, and of users' gradients


@dataclass(frozen=True)
class Block:
    """Rows of U users, R each, padded with copies of a row whose `mask` is 0.

    inputs: the ranker's, (U, R, …) each. labels: (U, R, heads). mask: (U, R) float32.
    """

    inputs: Inputs
    labels: Tensor
    mask: Tensor


def alike_in_blocks(
    users: NDArray[np.int64], counts: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Blocks of these users, each of them once, and a length: the least power of two that their counts fit in."""
    lengths = 2 ** np.ceil(np.log2(counts)).astype(np.int64)
    for length in np.unique(lengths).tolist():
        alike = users[lengths == length]
        at_once = max(1, min(_BLOCK_USERS, _BLOCK_ROWS // length))
        for start in range(0, len(alike), at_once):
            yield alike[start : start + at_once], length


class UserRows:
    """The newest rows of every user."""

    def __init__(self, examples: RankExamples, most: int) -> None:
        """most: rows of one user that are trained on."""
        self._examples = examples
        order = np.argsort(examples.users, kind="stable")[::-1]  # by user, newest first
        _, first, counts = np.unique(examples.users[order][::-1], return_index=True, return_counts=True)
        self._order, self._first = order, len(order) - first - counts
        self.counts: NDArray[np.int64] = np.minimum(counts, most)

    def __len__(self) -> int:
        """Number of users."""
        return len(self.counts)

    def rows_of(self, user: int) -> NDArray[np.int64]:
        """Her rows in the examples, newest first."""
        first = int(self._first[user])
        return self._order[first : first + int(self.counts[user])]

    def blocks(self, users: NDArray[np.int64]) -> Iterator[Block]:
        """Blocks of these users (places in 0 … len - 1), each of them once."""
        for alike, length in alike_in_blocks(users, self.counts[users]):
            yield self._block(alike, length)

    def _block(self, users: NDArray[np.int64], length: int) -> Block:
        place = np.arange(length)
        real = place < self.counts[users, None]
        rows = self._order[self._first[users, None] + np.where(real, place, 0)]
        taken = self._examples.take(rows.ravel())
        history, types, gaps, items, features, position = (
            x.view(*rows.shape, *x.shape[1:]) for x in inputs_of(taken)
        )
        labels = torch.from_numpy(taken.labels).view(*rows.shape, -1)
        mask = torch.from_numpy(real.astype(np.float32))
        return Block((history, types, gaps, items, features, position), labels, mask)
