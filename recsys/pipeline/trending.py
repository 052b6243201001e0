"""What is popular now: the popularity channels' table, recomputed from the live item features.

The bundle's table is as old as its training data. This one counts the events of a minute ago, with the same integer
decay as the feature. The thread that keeps the item features current calls `refresh` periodically.
"""

import threading
from weakref import WeakSet

import numpy as np

from recsys.contracts.errors import UnknownFeature
from recsys.features.feature_set import FeatureSet
from recsys.features.item_columns import ItemColumns
from recsys.items.catalogue import Catalogue
from recsys.recall.popular import PopularInCategoriesSource, Popularity, PopularSource, popularity

DECAYED = "item_engaged_decay7d"


class Trending:
    """Keeps popularity channels current."""

    def __init__(
        self,
        features: FeatureSet,
        columns: ItemColumns,
        catalogue: Catalogue,
        base: Popularity,
        column: str = DECAYED,
    ) -> None:
        """
        Args:
            base: the bundle's table: it follows what is popular now, and is the whole table while nothing is.
            column: the item feature that counts, 0 for an unused item.

        Raises:
            UnknownFeature: `column` is not a cached item feature of the set.
        """
        names = [features.names[place] for place in columns.columns]
        if column not in names:
            raise UnknownFeature(f"{column}: not an item feature; there are {', '.join(names)}")
        self._place = names.index(column)
        self._columns = columns
        self._catalogue = catalogue
        self._base = base
        self._current = base
        self._sources: WeakSet[PopularSource | PopularInCategoriesSource] = WeakSet()
        self._lock = threading.Lock()

    @property
    def current(self) -> Popularity:
        return self._current

    def keep(self, source: PopularSource | PopularInCategoriesSource) -> None:
        """Give this source the current table now and after each `refresh`, as long as the source exists."""
        with self._lock:
            source.table = self._current
            self._sources.add(source)

    def refresh(self, now_ms: int) -> Popularity:
        """Compute the current table and give it to the sources."""
        rows = np.flatnonzero(self._catalogue.alive).astype(np.int32)
        live = popularity(rows, self._columns.column(self._place, rows, now_ms), self._catalogue)
        rest = self._base.rows[~np.isin(self._base.rows, live.rows)]
        ordered = np.concatenate([live.rows, rest])
        table = Popularity(ordered, self._catalogue.main_category[ordered])
        with self._lock:
            self._current = table
            for source in self._sources:
                source.table = table
        return table
