"""How far a feature's values have moved since training: the population stability index (PSI).

PSI = Σ (p - q) · ln(p / q) over bins, p the training's share of a bin and q the live one. The usual reading: below 0.1
stable, above 0.25 another population. A sample of n rows alone gives about (bins - 1) / n.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidBundle

HISTOGRAMS = "feature_histograms.json"  # the bundle's file
BINS = 10
_SAMPLED_ROWS = 50_000  # plenty for ten bins
_LEAST_SHARE = 1e-4  # of an empty bin: the logarithm needs one


@dataclass(frozen=True, slots=True)
class Histogram:
    """`edges`: (b,) ascending; bin i holds edges[i-1] < value ≤ edges[i]. `shares`: (b + 1,), they sum to 1.

    The first edge is just below the smallest value of the sample: what is smaller than anything that training has seen
    has a bin of its own.
    """

    edges: tuple[float, ...]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> Self:
        """Bins with about equal shares of `values` (n,), n > 0; a value that many rows have makes them fewer."""
        low = np.nextafter(values.min(), np.float32(-np.inf))
        inner = np.quantile(values, np.arange(1, BINS) / BINS, method="inverted_cdf")
        edges = np.unique(np.append(inner.astype(np.float32), low))
        return cls(tuple(edges.tolist()), tuple(_shares(edges, values).tolist()))

    def psi(self, values: NDArray[np.float32]) -> float:
        """Of (n,) values, n > 0, against the sample that the histogram was made of."""
        live = np.maximum(_shares(np.array(self.edges, np.float32), values), _LEAST_SHARE)
        trained = np.maximum(self.shares, _LEAST_SHARE)
        return float(((trained - live) * np.log(trained / live)).sum())


def _shares(edges: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float64]:
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
    return counts / len(values)


def histograms(features: NDArray[np.float32]) -> list[Histogram]:
    """One a column of `features` (N, D), N > 0."""
    return [Histogram.of(column) for column in features.T]


def sampled_histograms(features: NDArray[np.float32], seed: int) -> list[Histogram]:
    """The same of at most fifty thousand rows, drawn by `seed`."""
    return histograms(features[np.random.default_rng(seed).permutation(len(features))[:_SAMPLED_ROWS]])


def write_histograms(path: Path, found: Sequence[Histogram]) -> None:
    content = [{"edges": h.edges, "shares": h.shares} for h in found]
    path.write_text(json.dumps(content), encoding="utf-8")


def read_histograms(path: Path) -> list[Histogram]:
    """
    Raises:
        InvalidBundle: the file is not one of `write_histograms`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [Histogram(tuple(h["edges"]), tuple(h["shares"])) for h in content]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidBundle(f"{path.name}: no feature histograms: {error}; train again") from error


def drift(
    trained: Sequence[Histogram], names: Sequence[str], features: NDArray[np.float32]
) -> dict[str, float]:
    """PSI by column name, the largest first. `features`: (N, D) served values in the order of `names`, N > 0."""
    found = {n: h.psi(column) for n, h, column in zip(names, trained, features.T, strict=True)}
    return dict(sorted(found.items(), key=lambda entry: -entry[1]))
