"""The random subspace in which one round's update travels.

The update of the item vectors is a matrix G (n_items, d). A client sends G A, where A (d, r) has r columns of one
orthogonal matrix. The matrix and each round's columns follow from a public seed, so nobody sends A. (d / r) G A Aᵀ is G
in the mean over rounds; d / r consecutive rounds have every column once.

The matrix is a randomised Hadamard transform (Ailon & Chazelle, 2009): its entries are ± d^-½, the same bits on any
machine, and each direction has a part of every head of the tower.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidConfig
from training.federated.streams import Stream


class Directions(NamedTuple):
    """Of one round. columns: (r,) int64, of the orthogonal matrix; basis: A, those columns, (d, r) float32."""

    columns: NDArray[np.int64]
    basis: NDArray[np.float32]


def directions_of(seed: int, number: int, dim: int, rank: int) -> Directions:
    """Of round `number`.

    Raises:
        InvalidConfig: `dim` is not a power of two, or `rank` does not divide it.
    """
    if dim < 1 or dim & (dim - 1):
        raise InvalidConfig(f"dim: {dim} is not a power of two, such as 64")
    if rank < 1 or dim % rank:
        raise InvalidConfig(f"rank: {rank} does not divide dim {dim}; use a power of two")
    cycle, slot = divmod(number, dim // rank)
    columns = Stream.COLUMNS.rng(seed, cycle).permutation(dim)[slot * rank : (slot + 1) * rank]
    signs = Stream.SIGNS.rng(seed).choice(np.array([-1.0, 1.0], np.float32), dim)
    basis = signs[:, None] * _hadamard(dim)[:, columns] * np.float32(dim**-0.5)
    return Directions(columns, np.asarray(basis, np.float32))


@cache
def _hadamard(dim: int) -> NDArray[np.float32]:
    """Sylvester's matrix of ± 1, (dim, dim)."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < dim:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix
