"""The catalogue of a store: items put or deleted since the bundle, under NS:{c}:catalogue, :times and :changed."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from recsys.contracts.changes import ItemChange, item_entry
from recsys.contracts.events import MAX_TIME_MS
from recsys.contracts.types import Item
from recsys.store.damage import Damage
from recsys.store.redis_changes import SEPARATOR
from recsys.store.redis_client import redis_errors, script
from recsys.store.redis_workers import RedisWorkers

CATALOGUE = "c"  # in place of a partition's number
PAGE = 500  # items per round trip
_DELETED = b""
_decode = msgspec.json.Decoder(Item).decode


class RedisCatalogue(RedisWorkers):
    """This part of a `FeatureStore`."""

    def __init__(self, client: Any, namespace: str, changes: int, damage: Damage) -> None:
        """`changes`: length of the stream of changed items."""
        super().__init__(client, namespace)
        self._changes = changes
        self._damage = damage
        self._change = client.register_script(script("catalogue.lua"))

    def change_items(self, changes: Sequence[ItemChange]) -> None:
        stream = self._key(CATALOGUE, "changed")
        keys = [self._catalogue, f"{self._catalogue}:times", stream, f"{stream}:last"]
        for start in range(0, len(changes), PAGE):
            arguments: list[str | int | bytes] = [self._changes, SEPARATOR]
            for change in changes[start : start + PAGE]:
                entry = _DELETED if change.item is None else msgspec.json.encode(item_entry(change.item))
                arguments += [change.item_id, change.changed_ms, entry]
            with redis_errors():
                self._change(keys, arguments)

    def catalogue(self, item_ids: Sequence[str] | None = None) -> Iterator[tuple[str, Item | None]]:
        with redis_errors():
            if item_ids is None:
                pairs = self._redis.hscan_iter(self._catalogue, count=PAGE)
                found = {item_id.decode(): raw for item_id, raw in pairs}  # a scan may repeat itself
            else:
                raws = self._redis.hmget(self._catalogue, item_ids) if item_ids else []
                found = {i: raw for i, raw in zip(item_ids, raws, strict=True) if raw is not None}
        for item_id, raw in found.items():
            if raw == _DELETED:
                yield item_id, None
            elif item := self._damage.unless(f"{self._catalogue} {item_id}", _item, raw):
                yield item_id, item

    @property
    def _catalogue(self) -> str:
        return self._key(CATALOGUE, "catalogue")


def _item(raw: bytes) -> Item:
    """Raises `ValueError` or `msgspec.MsgspecError`: not an item."""
    item = _decode(raw)
    for name in ("created_ms", "available_from_ms", "available_until_ms"):
        if not 0 <= getattr(item, name) < MAX_TIME_MS:
            raise ValueError(f"{name} is {getattr(item, name)}")
    return item
