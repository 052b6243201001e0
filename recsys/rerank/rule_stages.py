"""The rules as stages of the request path: a source of pinned items, a filter, a scorer. The reranker places pins."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from recsys.contracts.request import Candidates, Query, Rows
from recsys.items.catalogue import Catalogue
from recsys.rerank.rules import RuleBook, Target


def matching(target: Target, rows: Rows, catalogue: Catalogue) -> NDArray[np.bool_]:
    """(n,) bool: which rows the target names. All categories of an item count, not only the main one."""
    return np.fromiter((target.matches(catalogue.item(row)) for row in rows.tolist()), bool, len(rows))


@dataclass(frozen=True, eq=False)
class PinnedSource:
    """`recsys.pipeline.stages.Source`: pinned items, so that they get features and scores like all others."""

    book: RuleBook
    catalogue: Catalogue
    name: str = "pinned"
    optional: bool = True

    def recall(self, query: Query) -> Rows:
        pinned = (rule.pin.item for rule in self.book.holding(query) if rule.pin)
        return self.catalogue.rows_of(dict.fromkeys(pinned))


@dataclass(frozen=True, eq=False)
class RuleFilter:
    """`recsys.pipeline.stages.Filter`: removes items that a block rule names; the reason is the rule's name."""

    book: RuleBook
    catalogue: Catalogue
    name: str = "rules"
    optional: bool = False

    def remove(self, query: Query, candidates: Candidates) -> Mapping[str, NDArray[np.bool_]]:
        return {
            rule.name: matching(rule.block, candidates.rows, self.catalogue)
            for rule in self.book.holding(query)
            if rule.block
        }


@dataclass(frozen=True, eq=False)
class RuleBoost:
    """`recsys.pipeline.stages.Scorer`: multiplies scores after the ranker. Several boosts of one item multiply."""

    book: RuleBook
    catalogue: Catalogue
    name: str = "boost"
    optional: bool = True

    def score(self, query: Query, candidates: Candidates) -> Candidates:
        factor = np.ones(len(candidates), np.float32)
        for rule in self.book.holding(query):
            if rule.boost:
                named = matching(rule.boost, candidates.rows, self.catalogue)
                factor[named] *= np.float32(rule.boost.factor)
        # a factor above 1 moves an item up even when its score is negative
        score = np.where(candidates.score >= 0, candidates.score * factor, candidates.score / factor)
        return replace(candidates, score=score.astype(np.float32))
