import numpy as np
import pytest

from recsys.contracts.errors import UnknownFeature
from recsys.contracts.events import Event
from recsys.contracts.request import Query
from recsys.contracts.state import EntityState
from recsys.contracts.types import MS_PER_DAY, EventType
from recsys.features.definitions import FEATURES
from recsys.features.item_columns import ItemColumns
from recsys.items.catalogue import Catalogue
from recsys.pipeline.trending import Trending
from recsys.recall.popular import PopularInCategoriesSource, PopularSource, popularity
from tests.bundles import tiny_items

ITEMS = tiny_items(8)
NOW = 1_750_000_000_000
QUERY = Query("r", "u", k=5, now_ms=NOW)


def clicked(columns: ItemColumns, row: int, times: int, days_ago: int, users: int | None = None) -> None:
    """Clicks of as many users as clicks, or of `users`."""
    state, counted = EntityState(), set[bytes]()
    item = ITEMS[row].item_id
    for i in range(times):
        user = f"u{i % (users or times)}"
        event = Event(f"e{row}-{i}", EventType.CLICK, user, item, NOW - days_ago * MS_PER_DAY - i - 1)
        for delta in FEATURES.fold(event).of_item(counted):
            state.change(delta)
    columns.update(item, state)


def test_currently_used_items_come_before_the_bundles_table() -> None:
    catalogue, columns = Catalogue(ITEMS), ItemColumns(ITEMS, FEATURES)
    base = popularity(np.arange(8, dtype=np.int32), np.arange(8, 0, -1).astype(np.float32), catalogue)
    overall, by_category = PopularSource(base), PopularInCategoriesSource(base, catalogue)
    trending = Trending(FEATURES, columns, catalogue, base)
    trending.keep(overall)
    trending.keep(by_category)
    trending.refresh(NOW)
    assert overall.recall(QUERY).tolist() == list(range(8))  # nothing is used yet
    clicked(columns, 5, times=9, days_ago=0)
    clicked(columns, 6, times=9, days_ago=14)  # as often, two half-lives ago
    clicked(columns, 7, times=4, days_ago=0)
    catalogue.delete([ITEMS[4].item_id])
    trending.refresh(NOW)
    assert overall.recall(QUERY).tolist() == [5, 7, 6, 0, 1, 2, 3, 4]


def test_one_users_clicks_of_a_day_count_as_one() -> None:
    catalogue, columns = Catalogue(ITEMS), ItemColumns(ITEMS, FEATURES)
    nothing = popularity(np.empty(0, np.int32), np.empty(0, np.float32), catalogue)
    trending = Trending(FEATURES, columns, catalogue, nothing)
    clicked(columns, 1, times=10_000, days_ago=0, users=1)
    clicked(columns, 2, times=1, days_ago=0)
    clicked(columns, 3, times=2, days_ago=0)
    assert trending.refresh(NOW).rows.tolist() == [3, 1, 2]
    clicked(columns, 2, times=10_000, days_ago=0)
    assert trending.refresh(NOW).rows.tolist() == [2, 3, 1]


def test_an_unknown_feature_is_named() -> None:
    catalogue, columns = Catalogue(ITEMS), ItemColumns(ITEMS, FEATURES)
    base = popularity(np.empty(0, np.int32), np.empty(0, np.float32), catalogue)
    with pytest.raises(UnknownFeature, match="item_clicks_never"):
        Trending(FEATURES, columns, catalogue, base, column="item_clicks_never")
