"""Put new, changed and deleted items into the catalogue and the index: a call's items are findable when it returns."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.request import Rows
from recsys.contracts.types import Item
from recsys.items.catalogue import Catalogue
from recsys.models.attributes import vectors_from_attributes
from recsys.recall.item_vectors import ItemVectors
from recsys.recall.vector_index import MutableIndex


class LiveItems:
    """Changes what can be recommended. As thread-safe as its parts.

    An item of the bundle keeps its trained vector even when its attributes change; a later item gets the vector of its
    attributes (`recsys.models.attributes`).
    """

    def __init__(
        self,
        catalogue: Catalogue,
        index: MutableIndex,
        vectors: ItemVectors,
    ) -> None:
        """
        Args:
            index: holds the bundle's items by their catalogue rows.
            vectors: of the bundle's items, and of attributes; without those, new items are only in the catalogue and
                are recalled as fresh items.
        """
        self._catalogue = catalogue
        self._index = index
        self._trained = vectors.indexed
        self._attributes, self._dimension = vectors.attributes, vectors.dimension

    def put(self, items: Sequence[Item]) -> Rows:
        """Add or replace; (n,) int32 rows in the order given."""
        rows = self._catalogue.put(items)
        vectors = self._vectors(items, rows)
        known = vectors.any(axis=1)
        self._index.remove(rows[~known])
        self._index.upsert(rows[known], vectors[known])
        return rows

    def delete(self, item_ids: Iterable[str]) -> Rows:
        """Remove items; returns the rows of those that were known."""
        rows = self._catalogue.delete(item_ids)
        self._index.remove(rows)
        return rows

    def _vectors(self, items: Sequence[Item], rows: Rows) -> NDArray[np.float32]:
        """(n, d + r); zeros for an item without a vector, and for the linear part of one that is not trained."""
        vectors = np.zeros((len(items), self._index.dimension), np.float32)
        if self._attributes is not None:
            vectors[:, : self._dimension] = vectors_from_attributes(items, self._attributes)
        trained = np.flatnonzero(rows < self._catalogue.trained)
        vectors[trained] = self._trained[rows[trained]]
        return vectors
