"""Popular items, overall and in the categories of the user's recent items.

The counts come decayed: the bundle's table is of its training data, and `recsys.pipeline.trending` assigns a fresher
one while requests run (a `Popularity` is immutable).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.request import Query, Rows
from recsys.items.catalogue import NO_CODE, Catalogue


@dataclass(frozen=True)
class Popularity:
    """Items by decayed popularity, best first.

    rows: (n,) int32, no repeats. categories: (n,) int32, the main category of each.
    """

    rows: Rows
    categories: Rows
    _by_category: dict[int, Rows] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        order = np.argsort(self.categories, kind="stable")
        codes, first = np.unique(self.categories[order], return_index=True)
        parts = np.split(self.rows[order], first[1:]) if len(codes) else []
        object.__setattr__(self, "_by_category", dict(zip(codes.tolist(), parts, strict=True)))

    @property
    def by_category(self) -> dict[int, Rows]:
        """Code → the rows of that category, best first. Do not change it."""
        return self._by_category

    def of_category(self, code: int) -> Rows:
        """The rows of one category, best first."""
        return self._by_category.get(code, self.rows[:0])


def popularity(rows: Rows, scores: NDArray[np.float32], catalogue: Catalogue) -> Popularity:
    """Order rows by score; items without a score above 0 are left out."""
    order = np.lexsort((rows, -scores))
    best = rows[order][scores[order] > 0]
    return Popularity(best, catalogue.main_category[best])


@dataclass(eq=False)
class PopularSource:
    """`recsys.pipeline.stages.Source`: the most popular items overall. It works for every user."""

    table: Popularity
    limit: int = 100
    name: str = "popular"
    optional: bool = True

    def recall(self, query: Query) -> Rows:
        return _allowed([self.table.rows], query, [self.limit])[0]


@dataclass(eq=False)
class PopularInCategoriesSource:
    """`recsys.pipeline.stages.Source`: popular items of the categories of the user's `recent` items.

    Each category's share of `limit` follows how often and how recently the user engaged with it.
    """

    table: Popularity
    catalogue: Catalogue
    limit: int = 100
    recent: int = 20
    name: str = "popular_in_categories"
    optional: bool = True

    def recall(self, query: Query) -> Rows:
        """Best first: the priority of a category's i-th item is the category's weight / (i + 1)."""
        table = self.table
        codes = self.catalogue.main_category[query.recent_rows[: self.recent]]
        weights: dict[int, float] = {}
        for age, code in enumerate(codes.tolist()):
            if code != NO_CODE:
                weights[code] = weights.get(code, 0.0) + 0.9**age
        if not weights:
            return table.rows[:0]
        total = 0.0
        for weight in weights.values():  # `sum` compensates rounding errors since Python 3.12
            total += weight
        by_code = sorted(weights.items())
        quotas = [math.ceil(self.limit * weight / total) for _, weight in by_code]
        best = _allowed([table.of_category(code) for code, _ in by_code], query, quotas)
        priority = [
            weight / np.arange(1, len(rows) + 1) for (_, weight), rows in zip(by_code, best, strict=True)
        ]
        order = np.argsort(-np.concatenate(priority), kind="stable")
        rows: Rows = np.concatenate(best)[order[: self.limit]]
        return rows


def _allowed(lists: Sequence[Rows], query: Query, limits: Sequence[int]) -> list[Rows]:
    """The first `limit` rows of each list that may be shown. The query is asked once for all lists."""
    shown: list[Rows] = []
    # first with a small margin: hidden items are rarely all at the top
    for spare in ([limit // 4 for limit in limits], [query.hidden] * len(limits)):
        heads = [
            rows[: limit + min(more, query.hidden)]
            for rows, limit, more in zip(lists, limits, spare, strict=True)
        ]
        mask = query.may_show(np.concatenate(heads))
        ends = list(accumulate(map(len, heads)))
        shown = [
            head[mask[end - len(head) : end]][:limit]
            for head, limit, end in zip(heads, limits, ends, strict=True)
        ]
        if all(len(s) == limit for s, limit in zip(shown, limits, strict=True)):
            break
    return shown
