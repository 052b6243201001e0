"""`recsys bench filters`: what a filter costs, and how much of the nearest eligible items a filtered search finds.

The catalogue is synthetic: vectors that look learnt, and a price. Filters leave from nearly all items to a thousandth,
at random and by neighbourhood, as categories do; the truth is an exact scan of what they leave.
"""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.benchmarks.vectors import learnt_like
from infra.evaluation.timing import median_s
from infra.terminal import console
from recsys.contracts.eligible import Eligible
from recsys.contracts.filters import parse_filter
from recsys.contracts.types import Item
from recsys.items.catalogue import Catalogue
from recsys.items.eligibility import Eligibility
from recsys.recall.live_index import LiveIndex
from recsys.result import Goal, Result

_SHARES = {"90": 0.9, "50": 0.5, "10": 0.1, "1": 0.01, "0.1": 0.001}  # percent of the catalogue → share
_NOW_MS = 1_750_000_000_000


@dataclass(frozen=True)
class FiltersBench:
    """`k`: what the two-tower channel asks for."""

    seed: int = 0
    items: int = 100_000
    queries: int = 100
    dimension: int = 64
    k: int = 375

    @classmethod
    def quick(cls, seed: int) -> "FiltersBench":
        return cls(seed, items=25_000, queries=20)


def run(config: FiltersBench) -> Result:
    """Masks of a catalogue, then searches by them."""
    rng = np.random.default_rng(config.seed)
    prices = rng.permutation(config.items)  # price < n leaves n items
    catalogue = Catalogue(
        [Item(str(i), categories=("c",), attributes={"price": str(price)}) for i, price in enumerate(prices)]
    )
    figures = _masks(catalogue)
    data = learnt_like(config.items, config.dimension, config.queries, config.seed)
    index = LiveIndex.build(data.items)
    everything_s = _seconds(index, data.queries, config.k, None)
    console.print(f"{config.items:,} items: a search among all of them takes {everything_s * 1e3:.2f} ms")
    near = np.argsort(np.argsort(-data.items @ data.queries[0], kind="stable"))
    for percent, share in _SHARES.items():
        for kind, order in (("random", prices), ("near", near)):
            eligible = Eligible(order < share * config.items)
            figures[f"recall_{kind}_{percent}"] = _recall(index, data.queries, config.k, eligible, data.items)
            ratio = _seconds(index, data.queries, config.k, eligible) / everything_s
            figures[f"time_{kind}_{percent}_over_all"] = ratio
            console.print(
                f"{percent} %, {kind}: recall {figures[f'recall_{kind}_{percent}']:.4f}, time × {ratio:.2f}"
            )
    return Result("bench filters", config.seed, figures, goals())


def goals() -> dict[str, Goal]:
    """A filter may not cost quality, and a list must be full."""
    return {
        f"recall_{kind}_{percent}": Goal(">=", 0.99) for kind in ("random", "near") for percent in _SHARES
    }


def _masks(catalogue: Catalogue) -> dict[str, float]:
    """Milliseconds: the first filter on an attribute, another one, one after a change of the catalogue, a known one."""
    eligibility = Eligibility(catalogue)

    def timed(text: str) -> float:
        began = time.perf_counter()
        eligibility.of(_NOW_MS, parse_filter(text))
        return (time.perf_counter() - began) * 1e3

    figures = {
        "mask_first_ms": timed("price < 10"),
        "mask_other_ms": timed("price < 20 or 'c' in categories"),
    }
    catalogue.put([Item("new", attributes={"price": "1"})])
    figures["mask_changed_ms"] = timed("price < 10")
    figures["mask_known_ms"] = timed("price < 10")
    return figures


def _seconds(index: LiveIndex, queries: NDArray[np.float32], k: int, eligible: Eligible | None) -> float:
    """Of one search, one thread."""
    return median_s(lambda: [index.search(query[None], k, eligible) for query in queries], 3) / len(queries)


def _recall(
    index: LiveIndex, queries: NDArray[np.float32], k: int, eligible: Eligible, items: NDArray[np.float32]
) -> float:
    """The share of the true nearest eligible items that were found."""
    m = min(k, eligible.count)
    scores = queries @ items[eligible.rows].T
    truth = eligible.rows[np.argsort(-scores, axis=1, kind="stable")[:, :m]]
    found = [index.search(query[None], k, eligible).of(0) for query in queries]
    return float(
        np.mean([len(np.intersect1d(one, true)) / m for one, true in zip(found, truth, strict=True)])
    )
