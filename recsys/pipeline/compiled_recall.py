"""The part of the request path between the models in one compiled call: the channels that only read tables, the merger,
and the filters of every list. The stages that it stands in for define what it returns.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate, compress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.request import Candidates, Query, Rows, StageOutcome, Status
from recsys.items.catalogue import Catalogue
from recsys.native import MISSING, core
from recsys.pipeline.filters import (
    DELETED,
    EXCLUDED,
    SEEN,
    DeletedFilter,
    EligibleFilter,
    SeenFilter,
)
from recsys.pipeline.stages import Source
from recsys.recall.fresh import FreshSource
from recsys.recall.item_to_item import ItemToItemSource
from recsys.recall.merge import QuotaMerger
from recsys.recall.popular import PopularInCategoriesSource, PopularSource

_NO_ROWS: Rows = np.empty(0, np.int32)
_ALL_ELIGIBLE: NDArray[np.bool_] = np.empty(0, bool)


class _Kind(IntEnum):
    """`Recall::Kind` in module.cpp."""

    GIVEN, ITEM_TO_ITEM, POPULAR_IN_CATEGORIES, POPULAR, FRESH = range(5)


_KINDS: Mapping[type, _Kind] = {
    ItemToItemSource: _Kind.ITEM_TO_ITEM,
    PopularInCategoriesSource: _Kind.POPULAR_IN_CATEGORIES,
    PopularSource: _Kind.POPULAR,
    FreshSource: _Kind.FRESH,
}


class CompiledCandidates(NamedTuple):
    """Candidates that may be shown, without features, and what each stage did."""

    candidates: Candidates
    channels: list[StageOutcome]  # of those that were not given
    outcomes: list[StageOutcome]  # of the merger and the filters


@dataclass(frozen=True)
class _Tables:
    item_to_item: ItemToItemSource
    in_categories: PopularInCategoriesSource
    popular: PopularSource
    fresh: FreshSource


class CompiledRecall:
    """Thread-safe: Python's lock is held during the call.

    given: sources that run before it, whose rows it takes. own: names of the others, for which it stands in.
    n_filters: it stands in for the first filters of the path: `SeenFilter`, `DeletedFilter`, `EligibleFilter`.
    """

    n_filters = 3

    def __init__(
        self, sources: Sequence[Source], merger: QuotaMerger, catalogue: Catalogue, eligible: EligibleFilter
    ) -> None:
        """
        Args:
            sources: each kind of table once; other sources, such as a model's, run before and give their rows.

        Raises:
            InvalidConfig: nothing was compiled, or a table is missing.
        """
        if core is None:
            raise InvalidConfig(MISSING)
        kinds = [_KINDS.get(type(source), _Kind.GIVEN) for source in sources]
        found = {kind: source for kind, source in zip(kinds, sources, strict=True) if kind}
        if len(found) < len(_KINDS):
            raise InvalidConfig("the compiled recall needs each channel that reads a table, once")
        self.given = tuple(source for source, kind in zip(sources, kinds, strict=True) if not kind)
        self._tables = _Tables(*(found[kind] for kind in _Kind if kind))  # type: ignore[arg-type]
        self._names = tuple(source.name for source in sources)
        self.own = frozenset(self._names) - {source.name for source in self.given}
        self._merger, self._catalogue, self._eligible = merger, catalogue, eligible
        self._recall = core.Recall(
            channels=[
                (
                    kind,
                    getattr(source, "limit", 0),
                    getattr(source, "recent", 0),
                    merger.quotas.get(source.name, 0),
                    merger.weights.get(source.name, 1.0),
                )
                for source, kind in zip(sources, kinds, strict=True)
            ],
            limit=merger.limit,
        )

    def gather(self, query: Query, given: Mapping[str, Rows], began_ms: float) -> CompiledCandidates:
        """
        Args:
            given: name → rows of the sources in `given`; one that failed is missing.
            began_ms: since the request entered the pipeline.

        Raises:
            ValueError: a table names a row that the catalogue does not have yet.
        """
        tables, catalogue = self._tables, self._catalogue
        popular, in_categories = tables.popular.table, tables.in_categories.table
        alive = catalogue.alive
        eligible = query.eligible
        rows, ranks, score, counts, merged, removed, ms = self._recall.gather(
            given=[given.get(source.name, _NO_ROWS) for source in self.given],
            recent=query.recent_rows,
            seen=query.seen_rows,
            excluded=query.excluded_rows,
            eligible=_ALL_ELIGIBLE if eligible is None else eligible.mask,
            hidden=query.hidden,
            neighbours=tables.item_to_item.neighbours,
            neighbour_scores=tables.item_to_item.scores,
            recency=tables.item_to_item.weights,
            popular=popular.rows,
            by_category=in_categories.by_category,
            fresh_pool=tables.fresh.pool(query),
            turns=tables.fresh.turns(query.now_ms),
            main_category=catalogue.main_category[: len(alive)],
            alive=alive,
        )
        begins = [began_ms + before for before in accumulate(ms, initial=0.0)]
        parts = [
            StageOutcome(name, "source", Status.OK, 0, count, took, began_ms=began)
            for name, count, took, began in zip(self._names, counts, ms, begins, strict=False)
        ]
        channels = [part for part in parts if part.stage in self.own]
        n = len(self._names)
        name, kind = self._merger.name, "merger"
        merger = StageOutcome(name, kind, Status.OK, sum(counts), merged, ms[n], began_ms=begins[n])
        filters = self._filtered(query, merged, removed, ms[n + 1], begins[n + 1])
        return CompiledCandidates(self._candidates(rows, ranks, score, given), channels, [merger, *filters])

    def _candidates(
        self, rows: Rows, ranks: NDArray[np.int16], score: NDArray[np.float32], given: Mapping[str, Rows]
    ) -> Candidates:
        """Without the columns of channels that failed."""
        if len(given) == len(self.given):
            return Candidates(rows, self._names, ranks, score)
        there = [name in self.own or name in given for name in self._names]
        return Candidates(rows, tuple(compress(self._names, there)), ranks[:, there], score)

    def _filtered(
        self, query: Query, before: int, removed: tuple[Any, ...], ms: float, began_ms: float
    ) -> Iterator[StageOutcome]:
        """What each filter did; they run together, so each took a third of the time."""
        seen, excluded, deleted, ineligible, *after = removed
        because = self._eligible.eligibility.reasons(ineligible, query.now_ms, query.filter, query.region)
        reasons = (
            {SEEN: seen, EXCLUDED: excluded},
            {DELETED: deleted},
            {reason: int(np.count_nonzero(mask)) for reason, mask in because.items()},
        )
        names = (SeenFilter.name, DeletedFilter.name, EligibleFilter.name)
        for i, (name, counts, kept) in enumerate(zip(names, reasons, after, strict=True)):
            began = began_ms + i * ms / 3
            yield StageOutcome(
                name, "filter", Status.OK, before, kept, ms / 3, removed=counts, began_ms=began
            )
            before = kept
