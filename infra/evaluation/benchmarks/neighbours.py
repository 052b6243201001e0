"""`recsys bench neighbours`: time, memory and quality of the item-to-item table of a large catalogue.

As `recsys train two-tower` makes it: what users have together, filled up by the nearest vectors. Both are synthetic:
vectors that look learnt, histories of items by a power law.
"""

import resource
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from infra.evaluation.benchmarks.vectors import learnt_like
from infra.terminal import console
from recsys.recall.ann import AnnIndex, IndexConfig
from recsys.recall.index_kind import Kind
from recsys.recall.nearest import nearest
from recsys.recall.vector_index import Found
from recsys.result import Goal, Result
from training.two_tower.cooccurrence import filled_up, item_neighbours

_POWER = 0.8  # of the items' popularity
_CHECKED = 500  # items whose true neighbours are looked up


@dataclass(frozen=True)
class NeighboursBench:
    """`events`: of each user."""

    seed: int = 0
    items: int = 1_000_000
    users: int = 100_000
    events: int = 50
    dimension: int = 64
    neighbours: int = 50

    @classmethod
    def quick(cls, seed: int) -> "NeighboursBench":
        return cls(seed, items=30_000, users=3_000)


def run(config: NeighboursBench) -> Result:
    """Build the table as training does; then the nearest vectors of all items, for their quality."""
    vectors = learnt_like(config.items, config.dimension, 1, config.seed).items
    seen = _seen(config)
    console.print(f"{config.items:,} items, {seen.nnz:,} interactions …")
    began = time.perf_counter()
    similar, scores = item_neighbours(seen, config.neighbours)
    together_s = time.perf_counter() - began
    full = (similar >= 0).all(axis=1).mean()
    console.print(f"from histories: {together_s:.0f} s, {full:.0%} of the items have all neighbours")
    similar, _ = filled_up(similar, scores, vectors)
    build_s = time.perf_counter() - began
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    console.print(f"filled up: {build_s - together_s:.0f} s; the nearest of all items …")
    began = time.perf_counter()
    near = nearest(vectors, config.neighbours, seed=config.seed)
    figures = {
        "build_s": build_s,
        "histories_s": together_s,
        "nearest_s": time.perf_counter() - began,
        "nearest_recall": _recall(near, vectors, config),
        "full_share": float((similar >= 0).all(axis=1).mean()),
        "peak_gib": peak_gib,
    }
    return Result("bench neighbours", config.seed, figures, goals(config))


def goals(config: NeighboursBench) -> dict[str, Goal]:
    """The time is that of the full size."""
    quality = {"full_share": Goal(">=", 1.0), "nearest_recall": Goal(">=", 0.95)}
    return quality | ({"build_s": Goal("<=", 300)} if config == NeighboursBench(config.seed) else {})


def _seen(config: NeighboursBench) -> sparse.csr_matrix:
    """(users, items) of 0 and 1."""
    rng = np.random.default_rng(config.seed)
    popularity = np.cumsum(1 / np.arange(1, config.items + 1) ** _POWER)
    drawn = np.searchsorted(popularity, rng.random(config.users * config.events) * popularity[-1])
    items = rng.permutation(config.items)[drawn]
    users = np.repeat(np.arange(config.users), config.events)
    shape = (config.users, config.items)
    seen = sparse.csr_matrix((np.ones(len(items), np.float32), (users, items)), shape)
    seen.data[:] = 1
    return seen


def _recall(near: Found, vectors: NDArray[np.float32], config: NeighboursBench) -> float:
    """The share of the true nearest neighbours that were found, of some items."""
    rows = np.random.default_rng(config.seed).choice(config.items, _CHECKED, replace=False)
    exact = AnnIndex.build(vectors, IndexConfig(Kind.FLAT)).search(vectors[rows], config.neighbours + 1)
    pairs = zip(rows.tolist(), exact.rows.tolist(), near.rows[rows].tolist(), strict=True)
    shares = [len((set(true) - {row}) & set(found)) / config.neighbours for row, true, found in pairs]
    return float(np.mean(shares))
