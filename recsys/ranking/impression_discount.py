"""Less of what the user was shown before: each earlier impression takes its share of an item's value.

The ranker reads how often an item was shown, too, but it learns that from a log in which repeats were rare; what it
then serves repeats its own best guesses. So the discount is a dial of the request path, as in Lee et al. 2014
("Modeling impression discounting in large-scale recommender systems").
"""

import numpy as np
from msgspec.structs import replace

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.request import Candidates, Query


class ImpressionDiscount:
    """`recsys.pipeline.stages.Scorer`, after the ranker: value · factor^(times shown)."""

    name = "impression_discount"

    def __init__(self, column: int, factor: float, optional: bool = True) -> None:
        """
        Args:
            column: of the features, the one that counts the user's impressions of the item.
            factor: in (0, 1]; 1 changes nothing.

        Raises:
            InvalidConfig: the factor is outside.
        """
        if not 0 < factor <= 1:
            raise InvalidConfig(
                f"impression discount: the factor must be above 0 and at most 1, not {factor}"
            )
        self.optional = optional
        self._column = column
        self._factor = np.float32(factor)

    def score(self, query: Query, candidates: Candidates) -> Candidates:
        """A negative value sinks as a positive one does."""
        if not len(candidates):
            return candidates
        kept = self._factor ** np.maximum(candidates.features[:, self._column], 0)
        score = np.where(candidates.score >= 0, candidates.score * kept, candidates.score / kept)
        return replace(candidates, score=score.astype(np.float32))
