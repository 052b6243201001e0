"""How far a feature's values have moved since training: the population stability index (PSI).

PSI = Σ (p - q) · ln(p / q) over bins; p is a bin's share in training, q its live share. The usual reading: below 0.1
stable, above 0.25 another population. Sampling n rows alone gives about (bins - 1) / n.
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
_SAMPLED_ROWS = 50_000  # enough for ten bins
_LEAST_SHARE = 1e-4  # of an empty bin, for the logarithm


@dataclass(frozen=True, slots=True)
class Histogram:
    """`edges`: (b,) ascending; bin i holds edges[i-1] < value ≤ edges[i]. `shares`: (b + 1,), they sum to 1.

    The first edge is just below the sample's minimum, so values below the training range have a bin of their own.
    """

    edges: tuple[float, ...]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> Self:
        """Bins with about equal shares of `values` (n,), n > 0; fewer bins if many rows share a value."""
        low = np.nextafter(values.min(), np.float32(-np.inf))
        inner = np.quantile(values, np.arange(1, BINS) / BINS, method="inverted_cdf")
        edges = np.unique(np.append(inner.astype(np.float32), low))
        return cls(tuple(edges.tolist()), tuple(_shares(edges, values).tolist()))

    def psi(self, values: NDArray[np.float32]) -> float:
        """The PSI of `values` (n,), n > 0, against the histogram's sample.

        >>> trained = np.arange(1_000, dtype=np.float32)
        >>> round(Histogram.of(trained).psi(trained), 6), round(Histogram.of(trained).psi(trained + 300), 1)
        (0.0, 2.5)
        """
        live = np.maximum(_shares(np.array(self.edges, np.float32), values), _LEAST_SHARE)
        trained = np.maximum(self.shares, _LEAST_SHARE)
        return float(((trained - live) * np.log(trained / live)).sum())


def _shares(edges: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float64]:
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
    return counts / len(values)


def histograms(features: NDArray[np.float32]) -> list[Histogram]:
    """One per column of `features` (N, D), N > 0."""
    return [Histogram.of(column) for column in features.T]


def sampled_histograms(features: NDArray[np.float32], seed: int) -> list[Histogram]:
    """`histograms` of at most 50,000 rows, drawn by `seed`."""
    return histograms(features[np.random.default_rng(seed).permutation(len(features))[:_SAMPLED_ROWS]])


def write_histograms(path: Path, found: Sequence[Histogram]) -> None:
    content = [{"edges": h.edges, "shares": h.shares} for h in found]
    path.write_text(json.dumps(content), encoding="utf-8")


def read_histograms(path: Path) -> list[Histogram]:
    """Raises `InvalidBundle`: the file is not one of `write_histograms`."""
    try:
        if not path.is_file():
            raise ValueError("not a regular file")
        content = json.loads(path.read_text(encoding="utf-8"))
        return [Histogram(tuple(h["edges"]), tuple(h["shares"])) for h in content]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise InvalidBundle(f"{path.name}: not feature histograms: {error}; train again") from error


def drift(
    trained: Sequence[Histogram], names: Sequence[str], features: NDArray[np.float32]
) -> dict[str, float]:
    """PSI by column name, the largest first. `features`: (N, D) served values in the order of `names`, N > 0."""
    found = {n: h.psi(column) for n, h, column in zip(names, trained, features.T, strict=True)}
    return dict(sorted(found.items(), key=lambda entry: -entry[1]))
