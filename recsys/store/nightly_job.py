"""The nightly job of a system without a stream: features of all items and users as documents in Redis."""

from collections.abc import Sequence
from dataclasses import dataclass

from recsys.contracts.types import Item
from recsys.features.definitions import FEATURES
from recsys.features.documents import ItemDocuments
from recsys.features.item_columns import ItemColumns
from recsys.store.nightly import NightlyStore
from recsys.store.redis import RedisFeatureStore


@dataclass(frozen=True)
class Written:
    items: int
    users: int


def write_nightly(
    store: RedisFeatureStore, nightly: NightlyStore, items: Sequence[Item], now_ms: int
) -> Written:
    """Write the store's present state, as of `now_ms`. `items`: the catalogue; all get a document, with or without
    events."""
    columns = ItemColumns(items, FEATURES)
    columns.load(store.all_items())
    documents = ItemDocuments(FEATURES).of(columns, [item.item_id for item in items], now_ms)
    return Written(
        items=nightly.write_items(documents),
        users=nightly.write_users((user_id, store.user(user_id)) for user_id in store.user_ids()),
    )
