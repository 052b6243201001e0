"""The gain of the next item of a list: relevance alone, MMR, a determinantal point process, or learnt fatigue.

`recsys.rerank.greedy` asks an objective for the gain of every candidate, chooses one and tells the objective. A step is
one matrix-vector product over the candidates at most, so a list of k costs k · N · d operations.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recsys.features.aggregates import LOOKS_SCALE, looks_at
from recsys.items.catalogue import NO_CODE

Floats = NDArray[np.float32]

_TINY = 1e-6
_LEAST = np.float32(1e-30)
_ROWS = 32  # initial size of the Cholesky factor; doubled for longer lists


class Objective(Protocol):
    """The state of one list while it is built."""

    def gains(self) -> Floats:
        """(N,) gain of each candidate as the next item; arbitrary for those already chosen."""

    def choose(self, position: int, place: int) -> None:
        """Add candidate `position` to the list at `place`, from 0."""


class Relevance:
    """The score, independent of the list."""

    def __init__(self, relevance: Floats) -> None:
        self._relevance = relevance

    def gains(self) -> Floats:
        return self._relevance

    def choose(self, position: int, place: int) -> None:
        pass


class MaximalMarginalRelevance:
    """(1 - diversity) · relevance - diversity · greatest cosine with a chosen item (Carbonell, Goldstein 1998)."""

    def __init__(self, relevance: Floats, vectors: Floats, diversity: float) -> None:
        """
        Args:
            relevance: (N,) in [0, 1].
            vectors: (N, d) of length 1, or 0 for an item without a vector.
            diversity: 0 is relevance alone, 1 ignores relevance.
        """
        self._relevance = np.float32(1 - diversity) * relevance
        self._vectors = vectors
        self._diversity = np.float32(diversity)
        # diversity · cosine with the nearest chosen item; -1 for all candidates while the list is empty
        self._penalty = np.full(len(relevance), -self._diversity)

    def gains(self) -> Floats:
        return self._relevance - self._penalty

    def choose(self, position: int, place: int) -> None:
        cosines = self._vectors @ (self._diversity * self._vectors[position])
        np.maximum(self._penalty, cosines, out=self._penalty)


class DeterminantalPointProcess:
    """Greedy maximum of det(L) over the list, L_ij = q_i S_ij q_j (Chen, Zhang, Zhou 2018, algorithm 1).

    q = exp(a · relevance) with a = (1 - diversity) / (2 · diversity), S = (1 + cosine) / 2. The gain of an item is the
    logarithm of the factor by which it multiplies the determinant: log d², d the last entry of its Cholesky row.
    """

    def __init__(self, relevance: Floats, vectors: Floats, diversity: float) -> None:
        """As in `MaximalMarginalRelevance`, with `diversity` in (0, 1]."""
        self._quality = np.exp(np.float32((1 - diversity) / (2 * diversity)) * relevance)
        self._vectors = vectors
        self._factor = np.empty((_ROWS, len(relevance)), np.float32)  # transposed, one row per chosen item
        self._chosen = 0
        self._squares = self._quality**2 * np.float32(1 + _TINY)

    def gains(self) -> Floats:
        gains: Floats = np.log(np.maximum(self._squares, _LEAST))
        return gains

    def choose(self, position: int, place: int) -> None:
        similar = (1 + self._vectors @ self._vectors[position]) / 2
        earlier = self._factor[: self._chosen]
        row = self._quality[position] * self._quality * similar - earlier[:, position] @ earlier
        row /= np.sqrt(max(self._squares[position], _LEAST))
        if self._chosen == len(self._factor):
            self._factor = np.concatenate([self._factor, np.empty_like(self._factor)])
        self._factor[self._chosen] = row
        self._chosen += 1
        self._squares -= row * row


class SamenessFatigue:
    """value · P(click | the list so far) / P(click): what an item is still worth after others of its kind.

    P(click | the list so far) = σ(log odds + sameness · S), where S is how many items of its main category the user has
    looked at in the list, each by the weight of its place (`recsys.features.aggregates.looks_at`). Sameness is learnt
    from what users clicked (`recsys.ranking.taste`); 0 is relevance alone.
    """

    def __init__(self, value: Floats, click: Floats, categories: NDArray[np.int32], sameness: float) -> None:
        """
        Args:
            value: (N,) what orders the candidates.
            click: (N,) probability of a click on each alone.
            categories: (N,) codes; items of `NO_CODE` are of no kind.
            sameness: log odds for each look, at most 0.
        """
        self._value, self._categories, self._sameness = value, categories, np.float32(sameness)
        self._click = np.clip(click, _TINY, 1 - _TINY)
        self._log_odds = np.log(self._click) - np.log1p(-self._click)
        self._looks = np.zeros(len(value), np.float32)

    def gains(self) -> Floats:
        tired = 1 / (1 + np.exp(-(self._log_odds + self._sameness * self._looks)))
        gains: Floats = self._value * (tired / self._click)
        return gains

    def choose(self, position: int, place: int) -> None:
        code = self._categories[position]
        if code != NO_CODE:
            self._looks[self._categories == code] += np.float32(looks_at(place) / LOOKS_SCALE)


def scaled(scores: Floats) -> Floats:
    """Scores in [0, 1]: the best 1, the worst 0; all equal: 1."""
    low, high = scores.min(initial=np.inf), scores.max(initial=-np.inf)
    if not high > low:
        return np.ones_like(scores)
    relevance: Floats = (scores - low) / (high - low)
    return relevance


def unit(vectors: Floats) -> Floats:
    """(n, d) vectors of length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    normalised: Floats = vectors / np.maximum(lengths, np.float32(1e-12))
    return normalised
