"""Labelled lists as the arrays that the taste model is fitted on (`training.ranker.fit_taste`)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.contracts.types import Item
from recsys.features.aggregates import BUCKETS, CATEGORIES_PER_EVENT, LOOKS_AT, LOOKS_SCALE, category_buckets
from recsys.features.definitions import FEATURES
from recsys.features.tally import Tally
from recsys.ranking.taste import REST, Floats, Ints, by_category, category_codes
from training.features.packing import TALLY, matrix_of

COLUMNS = (
    "user_id",
    "item_id",
    "request_id",
    "event_time_ms",
    "position",
    "click",
    "conversion",
    "sampled",
    "features",
)
CATEGORIES = 64  # the largest; beyond them the rest


@dataclass(frozen=True)
class TasteRows:
    """n shown items, oldest first, and the m states of users in which they were shown.

    categories: K names, the rest last. looked, clicks: (m, K) by category, as of then. owner: (n,) the state of each
    row. codes: (n, 4) categories of each item, padded with -1. same: (n,) looks at earlier items of the same main
    category in the list. looked_at: (n,) how likely each was seen.
    """

    categories: list[str]
    looked: Floats
    clicks: Floats
    owner: Ints
    codes: Ints
    features: NDArray[np.float32]
    same: Floats
    looked_at: Floats
    clicked: Floats
    converted: Floats
    users: Ints

    def __len__(self) -> int:
        return len(self.owner)


def taste_rows(table: pa.Table, items: Sequence[Item]) -> TasteRows:
    """Of example rows with the columns `COLUMNS` and `TALLY`, without those that were never shown."""
    table = (
        table.filter(pc.invert(table["sampled"])).sort_by([("event_time_ms", "ascending")]).combine_chunks()
    )
    of_items = ItemCategories(items)
    place = of_items.place(table["item_id"])
    categories = of_items.largest(place)
    codes = category_codes(categories)
    tally, owner = tallies(table)
    looked, clicks = by_category(tally, codes, len(categories))
    looked_at = looks(table["position"])
    return TasteRows(
        categories=categories,
        looked=looked,
        clicks=clicks,
        owner=owner,
        codes=codes[of_items.buckets[place]],
        features=matrix_of(table["features"], FEATURES.dimension),
        same=sameness(table["request_id"], of_items.main[place], np.asarray(table["position"]), looked_at),
        looked_at=looked_at,
        clicked=np.asarray(table["click"]).astype(np.float64),
        converted=np.asarray(table["conversion"]).astype(np.float64),
        users=np.asarray(table["user_id"].combine_chunks().dictionary_encode().indices, np.int64),
    )


class ItemCategories:
    """The categories of the items: `buckets` (n + 1, 4), `main` (n + 1,) codes; the last row is an unknown item's."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._ids = pa.array([item.item_id for item in items], pa.string())
        firsts = [item.categories[0] if item.categories else REST for item in items]
        self._names, codes = np.unique([*firsts, REST], return_inverse=True)
        self.main: Ints = codes.astype(np.int64)
        self.buckets = np.full((len(items) + 1, CATEGORIES_PER_EVENT), BUCKETS, np.int64)
        for row, item in enumerate(items):
            found = category_buckets(item.categories)
            self.buckets[row, : len(found)] = found

    def place(self, item_ids: pa.ChunkedArray) -> Ints:
        """The row of each id."""
        return np.asarray(pc.fill_null(pc.index_in(item_ids, value_set=self._ids), len(self._ids)), np.int64)

    def largest(self, place: Ints) -> list[str]:
        """The main categories with most rows, at most `CATEGORIES`; then the rest."""
        counts = np.bincount(self.main[place], minlength=len(self._names))
        order = np.argsort(-counts, kind="stable")
        named = [str(self._names[code]) for code in order.tolist() if counts[code]]
        return [*[name for name in named if name != REST][:CATEGORIES], REST]


def tallies(table: pa.Table) -> tuple[Tally, Ints]:
    """The tally of each list, and its row for each example: the examples of a list have the same one."""
    users = np.asarray(table["user_id"].combine_chunks().dictionary_encode().indices, np.int64)
    times = np.asarray(table["event_time_ms"], np.int64)
    _, first, owner = np.unique(np.stack((users, times)), axis=1, return_index=True, return_inverse=True)
    lists = [table[name].combine_chunks().take(pa.array(first)) for name in TALLY]
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists[0]), 0), np.int64)
    buckets, *amounts = (np.asarray(column.flatten(), np.int64) for column in lists)
    return Tally(np.concatenate(([0], np.cumsum(lengths))), buckets, np.stack(amounts, axis=1)), owner


def sameness(requests: pa.ChunkedArray, categories: Ints, positions: Ints, looked_at: Floats) -> Floats:
    """(n,): looks at earlier items of the same main category in the list; 0 for rows without a list."""
    codes = np.asarray(pc.fill_null(requests, "").combine_chunks().dictionary_encode().indices, np.int64)
    lists = np.asarray(pc.is_valid(requests))
    groups = codes * (categories.max(initial=0) + 1) + categories
    order = np.lexsort((positions, groups))
    sums = np.cumsum(looked_at[order]) - looked_at[order]
    first = np.flatnonzero(np.diff(groups[order], prepend=-1))
    before = sums - np.repeat(sums[first], np.diff(np.append(first, len(order))))
    found = np.empty(len(order))
    found[order] = before
    return np.where(lists, found, 0.0)


def looks(positions: pa.ChunkedArray) -> Floats:
    """(n,) how likely each row was looked at; 1 without a position, as where features count looks."""
    weights = np.array(LOOKS_AT) / LOOKS_SCALE
    place = np.asarray(pc.fill_null(positions, 0), np.int64)
    return np.asarray(weights[np.clip(place, 0, len(weights) - 1)])
