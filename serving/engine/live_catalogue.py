"""What changes of a bundle's items while it is served: new and deleted items, item features.

The item feed is its only writer; requests read concurrently without a lock.
"""

from collections.abc import Iterable, Sequence

from recsys.contracts.state import EntityState
from recsys.contracts.types import Item
from recsys.features.item_columns import ItemColumns
from recsys.items.catalogue import Catalogue
from recsys.pipeline.trending import Trending
from recsys.recall.live_items import LiveItems

_TRENDING_MS = 30_000  # popularity changes slowly, and counting every item takes time


class LiveCatalogue:
    """Catalogue, index and feature columns of one bundle, changed together.
    trending: renewed every `_TRENDING_MS` of `refresh`'s clock, and with it what items are weighed by. features: False:
    item states are not followed; the columns only get rows for new items."""

    def __init__(
        self,
        catalogue: Catalogue,
        items: LiveItems,
        columns: ItemColumns | None = None,
        trending: Trending | None = None,
        features: bool = True,
    ) -> None:
        self._catalogue = catalogue
        self._items = items
        self._columns = columns
        self._followed = columns if features else None
        self._trending = trending
        self._trended_ms = 0
        self.revision = 0  # grows with each change of what there is to recommend

    def apply(
        self, entries: Iterable[tuple[str, Item | None]], states: Iterable[tuple[str, EntityState]]
    ) -> None:
        """Take over catalogue entries (None: deleted), then item states; unchanged ones cost nothing."""
        known = dict(entries)
        self._put([item for item in known.values() if item is not None and not self._has(item)])
        gone = [item_id for item_id, item in known.items() if item is None and self._is_alive(item_id)]
        if gone:
            self._items.delete(gone)
            self.revision += 1
        if self._followed is not None:
            self._followed.load(states)

    def refresh(self, now_ms: int) -> None:
        """Compute what requests would otherwise have to."""
        if self._followed is not None:
            self._followed.refresh(now_ms)
        if self._trending is not None and now_ms - self._trended_ms >= _TRENDING_MS:
            if self._followed is not None:
                self._followed.weigh()
                self._followed.refresh(now_ms)
            self._trending.refresh(now_ms)
            self._trended_ms = now_ms

    def _put(self, items: Sequence[Item]) -> None:
        """A row can be recalled as soon as the catalogue has it, so its feature columns come first."""
        if not items:
            return
        if self._columns is not None:
            places = self._catalogue.places(item.item_id for item in items)
            self._columns.put([places[item.item_id] for item in items], items)
        self._items.put(items)
        self.revision += 1

    def _has(self, item: Item) -> bool:
        row = self._catalogue.rows.get(item.item_id)
        return row is not None and bool(self._catalogue.alive[row]) and self._catalogue.item(row) == item

    def _is_alive(self, item_id: str) -> bool:
        row = self._catalogue.rows.get(item_id)
        return row is not None and bool(self._catalogue.alive[row])
