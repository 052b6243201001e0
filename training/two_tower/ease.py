"""EASE in one float32 matrix of the catalogue's size.

One inverse per λ by Cholesky, in place: n³ multiplications in BLAS 3. An eigendecomposition would serve every λ at
once, but it takes three matrices, and took 42 times as long as such an inverse (3,000 items, one thread,
`scipy.linalg.eigh`; no command repeats this), where the grid has four λ.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import lapack

_BLOCK = 512  # columns at a time


def item_weights(seen: sparse.csr_matrix, regularisation: float) -> NDArray[np.float32]:
    """B, (n_items, n_items): the ridge regression of every item on all others, in closed form (Steck, 2019).

    P = (XᵀX + λI)⁻¹, B = I - P / diag(P); a user's scores are x B.

    Args:
        seen: X, (n_users, n_items) of 0 and 1.

    Raises:
        LinAlgError: XᵀX + λI is not positive definite in float32.
    """
    weights = _inverse(_gram(seen), regularisation)
    weights /= -np.diag(weights)
    np.fill_diagonal(weights, 0)
    return weights


def _gram(seen: sparse.csr_matrix) -> NDArray[np.float32]:
    """The lower triangle of XᵀX, (n_items, n_items) in Fortran's order."""
    n_items, items, columns = seen.shape[1], seen.T.tocsr(), seen.tocsc()
    gram = np.zeros((n_items, n_items), np.float32, order="F")
    for start in range(0, n_items, _BLOCK):
        gram[start:, start : start + _BLOCK] = (items[start:] @ columns[:, start : start + _BLOCK]).toarray()
    return gram


def _inverse(gram: NDArray[np.float32], regularisation: float) -> NDArray[np.float32]:
    """(gram + λI)⁻¹ in place of `gram`, of which the lower triangle is read; in C's order."""
    gram[np.diag_indices_from(gram)] += np.float32(regularisation)
    gram, fault = lapack.spotrf(gram, lower=1, clean=0, overwrite_a=1)
    if fault:
        raise np.linalg.LinAlgError(f"EASE: λ = {regularisation:g} is too small for this log")
    gram, _ = lapack.spotri(gram, lower=1, overwrite_c=1)
    for start in range(0, len(gram), _BLOCK):  # the upper triangle, from the lower
        end = start + _BLOCK
        gram[start:end, end:] = gram[end:, start:end].T
        square = gram[start:end, start:end]
        square[:] = np.tril(square) + np.tril(square, -1).T
    return gram.T
