"""The rules as stages of the request path: a source of what is pinned, a filter, a scorer. The reranker places pins."""

from collections.abc import Mapping

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from recsys.contracts.request import Candidates, Query, Rows
from recsys.items.catalogue import Catalogue
from recsys.rerank.rules import RuleBook, Target


def matching(target: Target, rows: Rows, catalogue: Catalogue) -> NDArray[np.bool_]:
    """(n,) bool: which rows the target names. All categories of an item count, not the main one alone."""
    return np.fromiter((target.matches(catalogue.item(row)) for row in rows.tolist()), bool, len(rows))


class PinnedSource:
    """`recsys.pipeline.stages.Source`: what is pinned, so that it has features and scores like everything else."""

    def __init__(
        self, book: RuleBook, catalogue: Catalogue, name: str = "pinned", optional: bool = True
    ) -> None:
        self.name = name
        self.optional = optional
        self._book = book
        self._catalogue = catalogue

    def recall(self, query: Query) -> Rows:
        pinned = (rule.pin.item for rule in self._book.holding(query) if rule.pin)
        return self._catalogue.rows_of(dict.fromkeys(pinned))


class RuleFilter:
    """`recsys.pipeline.stages.Filter`: removes what a block rule names; the reason is the rule's name."""

    def __init__(
        self, book: RuleBook, catalogue: Catalogue, name: str = "rules", optional: bool = False
    ) -> None:
        self.name = name
        self.optional = optional
        self._book = book
        self._catalogue = catalogue

    def remove(self, query: Query, candidates: Candidates) -> Mapping[str, NDArray[np.bool_]]:
        return {
            rule.name: matching(rule.block, candidates.rows, self._catalogue)
            for rule in self._book.holding(query)
            if rule.block
        }


class RuleBoost:
    """`recsys.pipeline.stages.Scorer`: goes after the ranker. Several boosts of one item multiply."""

    def __init__(
        self, book: RuleBook, catalogue: Catalogue, name: str = "boost", optional: bool = True
    ) -> None:
        self.name = name
        self.optional = optional
        self._book = book
        self._catalogue = catalogue

    def score(self, query: Query, candidates: Candidates) -> Candidates:
        factor = np.ones(len(candidates), np.float32)
        for rule in self._book.holding(query):
            if rule.boost:
                named = matching(rule.boost, candidates.rows, self._catalogue)
                factor[named] *= np.float32(rule.boost.factor)
        # a factor above 1 moves up whatever the sign of the score
        score = np.where(candidates.score >= 0, candidates.score * factor, candidates.score / factor)
        return replace(candidates, score=score.astype(np.float32))
