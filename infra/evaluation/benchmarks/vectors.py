"""Vectors to measure indexes on: random ones, and ones that look learnt.

Random vectors are the hard case: nothing is near anything, so no list or graph can skip much. Learnt ones have
clusters of very different sizes and few strong directions; `learnt_like` draws such vectors. They are synthetic, and
figures on them say so.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_CHUNK = 100_000


class Vectors(NamedTuple):
    """items: (n, d) float32 of length 1. queries: (q, d) float32 of length 1, not drawn from the items."""

    items: Floats
    queries: Floats


def random_vectors(n: int, d: int, queries: int, seed: int) -> Vectors:
    """Uniform on the sphere."""
    random = np.random.default_rng(seed)
    return Vectors(*(_unit(random.standard_normal((m, d), np.float32)) for m in (n, queries)))


def learnt_like(n: int, d: int, queries: int, seed: int) -> Vectors:
    """Topics and sub-topics on the sphere.

    A sub-topic lies near its topic, an item near its sub-topic. Shares of sub-topics follow Zipf's law; the spread
    falls from direction to direction.
    """
    random = np.random.default_rng(seed)
    spectrum = (np.arange(1, d + 1, dtype=np.float32) ** -0.5)[random.permutation(d)]
    topics = random.standard_normal((200, d), np.float32) * spectrum
    parts = np.repeat(topics, 20, axis=0) + 0.6 * random.standard_normal((4000, d), np.float32) * spectrum
    share = 1 / np.arange(1, len(parts) + 1) ** 0.8
    share = random.permutation(share / share.sum())

    def draw(m: int) -> Floats:
        near = parts[random.choice(len(parts), m, p=share)]
        return _unit(near + 0.5 * random.standard_normal((m, d), np.float32) * spectrum)

    items = np.concatenate([draw(min(_CHUNK, n - start)) for start in range(0, n, _CHUNK)])
    return Vectors(items, users_of(items, queries, seed + 1))


def users_of(items: Floats, queries: int, seed: int) -> Floats:
    """(queries, d) float32 of length 1: each near the mean of one to three items."""
    random = np.random.default_rng(seed)
    liked = [
        items[random.integers(0, len(items), random.integers(1, 4))].mean(axis=0) for _ in range(queries)
    ]
    users = np.array(liked, np.float32)
    return _unit(users + 0.3 * users.std() * random.standard_normal(users.shape, np.float32))


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
