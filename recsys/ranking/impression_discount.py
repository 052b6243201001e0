"""Discount repeated impressions: each earlier impression reduces an item's value.

The ranker reads how often an item was shown, but learns that from a log with few repeats, so what it serves repeats its
own best guesses. The discount is therefore a setting of the request path, as in Lee et al. 2014 ("Modeling impression
discounting in large-scale recommender systems").
"""

from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.request import Candidates, Query


@dataclass(frozen=True)
class ImpressionDiscount:
    """`recsys.pipeline.stages.Scorer`, after the ranker: value · factor^(looks).

    column: the feature that counts how often the user looked at the item.
    factor: in (0, 1]; 1 changes nothing.

    Raises:
        InvalidConfig: the factor is outside.
    """

    column: int
    factor: float
    optional: bool = True
    name: str = "impression_discount"

    def __post_init__(self) -> None:
        if not 0 < self.factor <= 1:
            raise InvalidConfig(f"impression discount: factor {self.factor} must be above 0 and at most 1")

    def score(self, query: Query, candidates: Candidates) -> Candidates:
        """A negative value decreases as a positive one does."""
        if not len(candidates):
            return candidates
        discount = np.float32(self.factor) ** np.maximum(candidates.features[:, self.column], 0)
        score = np.where(candidates.score >= 0, candidates.score * discount, candidates.score / discount)
        return replace(candidates, score=score.astype(np.float32))
