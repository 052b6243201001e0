"""Item features as finished numbers, one document per item: what a nightly batch job leaves for serving to read.

The conventional design, with which `ItemColumns` (states in memory, values as of now) is compared. A document is
name → value: the item's cached columns, and the integers of the ticking features, by the names of their totals.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.types import Item
from recsys.features.feature_set import FeatureSet
from recsys.features.item_columns import ItemColumns
from recsys.features.spec import Total

Document = Mapping[str, float]
_PAGE = 2_000


class ItemDocuments:
    """Turns item columns into documents, and documents into arrays."""

    def __init__(self, features: FeatureSet) -> None:
        unknown = ItemColumns([Item("")], features)
        self.names = [features.names[place] for place in unknown.columns]
        self.totals = unknown.ticking_totals

    def of(
        self, columns: ItemColumns, item_ids: Sequence[str], now_ms: int
    ) -> Iterator[tuple[str, Document]]:
        """The documents of these items as of `now_ms`."""
        for start in range(0, len(item_ids), _PAGE):
            page = item_ids[start : start + _PAGE]
            rows = columns.rows(page)
            values = columns.values(rows, now_ms).tolist()
            integers = [columns.total(total, rows).tolist() for total in self.totals]
            names = [*self.names, *(total.aggregate_name for total in self.totals)]
            for item_id, floats, *whole in zip(page, values, *integers, strict=True):
                yield item_id, dict(zip(names, [*floats, *whole], strict=True))

    def arrays(
        self, columns: ItemColumns, rows: NDArray[np.int32], documents: Sequence[Document | None]
    ) -> tuple[NDArray[np.float32], dict[Total, NDArray[np.int64]]]:
        """(N, C) float32 in the order of `ItemColumns.columns`, and (N,) of each total.

        Args:
            columns: the catalogue, without events; it gives the values of items without a document.
            rows: of the items that the documents belong to.
        """
        names, nothing = self.names, [0.0] * len(self.names)
        values = np.array(
            [nothing if d is None else [d[name] for name in names] for d in documents], np.float32
        ).reshape(len(documents), len(names))
        missing = [i for i, d in enumerate(documents) if d is None]
        if missing:
            values[missing] = columns.values(rows[missing], 0)
        totals = {
            total: np.array([0 if d is None else d[total.aggregate_name] for d in documents], np.int64)
            for total in self.totals
        }
        return values, totals


class FixedItems:
    """`assemble.ItemSide` of values that were computed elsewhere."""

    def __init__(
        self,
        columns: ItemColumns,
        values: NDArray[np.float32],
        totals: Mapping[Total, NDArray[np.int64]],
        aligned: bool = False,
    ) -> None:
        """
        Args:
            columns: the catalogue, without events; it gives the values of items beyond the n-th, which came later.
            values: (n, C) float32; row i belongs to item i, or (`aligned`) to the i-th of the rows asked for.
            totals: (n,) int64 of each.
        """
        self.catalogue = columns
        self._values, self._totals, self._aligned = values, totals, aligned

    def values(self, rows: NDArray[np.int32], now_ms: int) -> NDArray[np.float32]:
        if self._aligned:
            return self._values
        found: NDArray[np.float32] = self._values[self._place(rows)]
        later = rows >= len(self._values)
        if later.any():
            found[later] = self.catalogue.values(rows[later], now_ms)
        return found

    def total(self, total: Total, rows: NDArray[np.int32]) -> NDArray[np.int64]:
        known = self._totals[total]
        if self._aligned:
            return known
        return np.where(rows < len(known), known[self._place(rows)], 0)

    def _place(self, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        return np.minimum(rows, len(self._values) - 1)
