"""Updates as small integers, so that they can be masked and summed without an error.

Rounding is stochastic: x / step becomes the integer below or above with probabilities that keep its mean, so the sum of
many clients' integers is unbiased (Alistarh et al. 2017, "QSGD").
"""

import numpy as np
from numpy.typing import NDArray

LEVELS = 127  # of an int8, to either side of 0
WORD = np.uint16  # masked numbers: sums are taken modulo its size
LARGEST_SUM = np.iinfo(WORD).max // 2
MOST_CLIENTS = LARGEST_SUM // LEVELS  # whose sum cannot leave the range of signed 16 bits
ROUNDED = 1.1  # bound of a rounded update's length, in lengths before rounding


def clipped(updates: NDArray[np.float32], norm: float) -> NDArray[np.float32]:
    """Each row of (clients, m) shortened to at most this Euclidean length; a row that is not finite becomes zero."""
    lengths = _lengths(updates)
    shares = np.minimum(1.0, norm / np.maximum(lengths, 1e-30))
    finite = np.isfinite(lengths)
    return np.asarray(np.where(finite, updates, 0) * np.where(finite, shares, 0), np.float32)


def quantized(updates: NDArray[np.float32], norm: float, rng: np.random.Generator) -> NDArray[np.int8]:
    """Rows of length `norm` at most → int8 of the same shape, in steps of `norm` / 127.

    A row that rounding makes longer than `ROUNDED` · norm becomes zero, so that no client counts for more.
    """
    scaled = updates * np.float32(LEVELS / norm)
    scaled += rng.random(updates.shape, np.float32)
    np.floor(scaled, out=scaled)
    scaled[_lengths(scaled)[:, 0] > ROUNDED * LEVELS] = 0
    return np.clip(scaled, -LEVELS, LEVELS, out=scaled).astype(np.int8)


def _lengths(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 1)."""
    return np.asarray(np.sqrt(np.einsum("nm,nm->n", rows, rows))[:, None], np.float32)


def dequantized(total: NDArray[np.integer], norm: float) -> NDArray[np.float64]:
    """A sum of such integers as a sum of updates."""
    return np.asarray(total, np.float64) * (norm / LEVELS)


def to_words(numbers: NDArray[np.integer]) -> NDArray[np.uint16]:
    """Signed numbers modulo 2^16."""
    return np.asarray(numbers, np.int64).astype(WORD)


def from_words(words: NDArray[np.uint16]) -> NDArray[np.int64]:
    """The signed number in ± `LARGEST_SUM` that each word stands for."""
    return np.asarray(words, WORD).view(np.int16).astype(np.int64)
