"""Combine the ranker's heads into the one value that orders candidates."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import Head

DEFAULT_WEIGHTS: Mapping[Head, float] = {
    Head.CLICK: 1.0,
    Head.CONVERSION: 1.0,
    Head.LIKE: 1.0,
    Head.DWELL: 0.05,
}


@dataclass(frozen=True)
class ValueModel:
    """value = Σ weight · expected action. What a click is worth is a product decision: configured, not learnt.

    Conversion enters as P(click) · P(conversion | click), dwell as log1p seconds. A weight may be negative (a head to
    avoid); weights that are all zero would order nothing and are refused.
    """

    weights: Mapping[Head, float] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))

    def __post_init__(self) -> None:
        try:
            weights = {Head(head): float(weight) for head, weight in self.weights.items()}
        except ValueError as error:
            raise InvalidConfig(f"value model: {error}; heads are {', '.join(Head)}") from error
        if not all(map(math.isfinite, weights.values())) or not any(weights.values()):
            raise InvalidConfig("value model: weights must be finite, and at least one other than 0")
        object.__setattr__(self, "weights", weights)

    def value(self, scores: Mapping[Head, NDArray[np.float32]]) -> NDArray[np.float32]:
        """(N,) float32 from the heads' (N,) arrays. A head with weight 0 is not read."""
        value = np.zeros(len(next(iter(scores.values()))), np.float32)
        for head, weight in self.weights.items():
            if weight:
                expected = scores[head]
                if head is Head.CONVERSION:
                    expected = expected * scores[Head.CLICK]
                value += np.float32(weight) * expected
        return value
