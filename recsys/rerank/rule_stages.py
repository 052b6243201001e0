"""The rules as stages of the request path: a source of pinned items, a filter, a scorer. The reranker places pins."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidFilter
from recsys.contracts.request import Candidates, Query, Rows
from recsys.items.catalogue import Catalogue
from recsys.items.eligibility import Eligibility
from recsys.rerank.rules import RuleBook, Target


def matching(target: Target, rows: Rows, eligibility: Eligibility) -> NDArray[np.bool_]:
    """(n,) bool: which rows the target is about. All categories of an item count, not only the main one. A condition on
    an attribute that no item has is about none."""
    catalogue = eligibility.catalogue
    found = np.isin(rows, catalogue.rows_of(target.items))
    for condition in target.conditions:
        with suppress(InvalidFilter):
            found |= catalogue.holds(condition, rows)
    return found


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
    eligibility: Eligibility
    name: str = "rules"
    optional: bool = False

    def remove(self, query: Query, candidates: Candidates) -> Mapping[str, NDArray[np.bool_]]:
        return {
            rule.name: matching(rule.block, candidates.rows, self.eligibility)
            for rule in self.book.holding(query)
            if rule.block
        }


@dataclass(frozen=True, eq=False)
class RuleBoost:
    """`recsys.pipeline.stages.Scorer`: multiplies scores after the ranker. Several boosts of one item multiply."""

    book: RuleBook
    eligibility: Eligibility
    name: str = "boost"
    optional: bool = True

    def score(self, query: Query, candidates: Candidates) -> Candidates:
        factor = np.ones(len(candidates), np.float32)
        for rule in self.book.holding(query):
            if rule.boost:
                named = matching(rule.boost, candidates.rows, self.eligibility)
                factor[named] *= np.float32(rule.boost.factor)
        # a factor above 1 moves an item up even when its score is negative
        score = np.where(candidates.score >= 0, candidates.score * factor, candidates.score / factor)
        return replace(candidates, score=score.astype(np.float32))
