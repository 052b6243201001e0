"""What is popular is looked at now and then, not with every look at the store."""

from typing import cast

from recsys.features.definitions import FEATURES
from recsys.features.item_columns import ItemColumns
from recsys.items.catalogue import Catalogue
from recsys.pipeline.trending import Trending
from recsys.recall.item_vectors import ItemVectors
from recsys.recall.live_index import LiveIndex
from recsys.recall.live_items import LiveItems
from serving.engine.live_catalogue import LiveCatalogue
from tests.bundles import tiny_items, tiny_vectors


class Counted:
    def __init__(self) -> None:
        self.moments: list[int] = []

    def refresh(self, now_ms: int) -> None:
        self.moments.append(now_ms)


def test_popularity_is_renewed_every_half_minute() -> None:
    items, vectors = tiny_items(5), tiny_vectors(5)
    catalogue, trending = Catalogue(items), Counted()
    live = LiveCatalogue(
        catalogue,
        LiveItems(catalogue, LiveIndex.build(vectors), ItemVectors(vectors)),
        ItemColumns(items, FEATURES),
        cast(Trending, trending),
    )
    for second in (100, 110, 129, 130, 159, 161):
        live.refresh(second * 1_000)
    assert trending.moments == [100_000, 130_000, 161_000]
