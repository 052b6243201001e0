"""From the heads to the one number that the order follows."""

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
    """value = Σ weight · what the user is expected to do. What a click is worth is a product decision, so it is
    configuration, not learnt.

    The conversion head is given a click, so it enters as P(click) · P(conversion | click); dwell enters as log1p
    seconds. A negative weight is allowed (a head to avoid); all zero is not, for it orders nothing.
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
        """One (N,) float32 of the heads' (N,) arrays. A head with weight 0 is not read."""
        value = np.zeros(len(next(iter(scores.values()))), np.float32)
        for head, weight in self.weights.items():
            if weight:
                expected = scores[head]
                if head is Head.CONVERSION:
                    expected = expected * scores[Head.CLICK]
                value += np.float32(weight) * expected
        return value
