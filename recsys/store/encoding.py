"""How a batch travels to the script that applies it, and how states and items lie in Redis.

A batch is one MessagePack value. Cell names repeat from event to event, so it holds each name once and the
events refer to it by number.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b

import msgspec

from recsys.events import CATEGORY_SEPARATOR
from recsys.features.state import Delta, Entity, EntityState, History, Op, Visit, parse_cell
from recsys.store.base import Batch, StateDefinition, StoreConfig
from recsys.types import EventType, Item

ID_BYTES = 16
_SEPARATOR = "\x1f"  # a control character, which no id may contain
_TYPES = {str(t): t for t in EventType}
_pack = msgspec.msgpack.Encoder().encode


def event_key(event_id: str) -> bytes:
    """16 bytes for the dedupe set, whatever the form of the id. 2^64 ids for an even chance of a collision."""
    return blake2b(event_id.encode(), digest_size=ID_BYTES).digest()


def kept_histories(histories: Iterable[History]) -> dict[str, History]:
    """History name → the history that is kept for it.

    Histories of the same event types differ in length only, so the longest one holds the others.
    """
    histories = list(histories)
    longest: dict[frozenset[EventType], History] = {}
    for history in sorted(histories, key=lambda h: (h.size, h.name)):
        longest[history.types] = history
    return {history.name: longest[history.types] for history in histories}


class BatchEncoder:
    """Makes the two arguments of `apply.lua`: the batch, and its event ids of 16 bytes each."""

    def __init__(self, features: StateDefinition, config: StoreConfig) -> None:
        self._features = features
        self._config = config
        self._kept = {h.name: h for h in kept_histories(features.histories).values()}
        self._sizes = {name: h.size for name, h in self._kept.items()}
        self._tiled = {
            entity: [a for a in features.aggregates if a.hop_ms and a.entity is entity]
            for entity in (Entity.USER, Entity.ITEM)
        }

    def encode(self, batch: Batch) -> tuple[bytes, bytes]:
        cells: dict[str, int] = {}
        ops: list[str] = []
        fold, kept, bucket_ms = self._features.fold, self._kept, self._config.dedupe_bucket_ms
        rows = []
        for offset, event in zip(batch.offsets, batch.events, strict=True):
            folded = fold(event)
            visits = [(h.name, v.event_time_ms, pack_visit(v)) for h, v in folded.visits if h.name in kept]
            rows.append(
                (
                    offset,
                    event.event_time_ms // bucket_ms,
                    event.user_id,
                    event.item_id,
                    _numbered(folded.user, cells, ops),
                    _numbered(folded.item, cells, ops),
                    visits,
                )
            )
        header = {
            "epoch": batch.epoch,
            "previous": batch.previous,
            "next": batch.next_offset,
            "watermark": batch.watermark_ms,
            "oldest_bucket": (batch.watermark_ms - self._config.dedupe_ms) // bucket_ms,
            "changes": self._config.changes,
            "idle_ms": self._config.idle_ms,
            "sizes": self._sizes,
            "oldest_user_tile": self._oldest_tiles(Entity.USER, batch.watermark_ms),
            "oldest_item_tile": self._oldest_tiles(Entity.ITEM, batch.watermark_ms),
            "cells": list(cells),
            "ops": ops,
        }
        return _pack((header, rows)), b"".join([event_key(e.event_id) for e in batch.events])

    def _oldest_tiles(self, entity: Entity, watermark_ms: int) -> dict[str, int]:
        """Aggregate name → the first tile that a reader at the watermark, or later, may still look at."""
        return {a.name: (watermark_ms - a.retention_ms) // a.hop_ms for a in self._tiled[entity]}


def _numbered(deltas: Iterable[Delta], cells: dict[str, int], ops: list[str]) -> list[int]:
    """[cell number, amount, cell number, amount, …]; numbers count from 1, as Lua does."""
    flat: list[int] = []
    for cell, op, amount in deltas:
        number = cells.get(cell)
        if number is None:
            number = cells[cell] = len(cells) + 1
            ops.append(op)
        flat += (number, amount)
    return flat


def pack_visit(visit: Visit) -> str:
    """A history's member. It starts with the event id: Redis orders equal scores by member, as visits are ordered.

    The separator is below every character of an id, so an id that another one begins with comes first in both orders.
    """
    categories = CATEGORY_SEPARATOR.join(visit.categories)
    return _SEPARATOR.join((visit.event_id, visit.type, visit.item_id, categories))


@lru_cache(maxsize=1 << 16)
def unpack_visit(member: bytes, score: bytes) -> Visit:
    """The inverse of `pack_visit`. Cached: a user's history is read with each request, and hardly changes between."""
    event_id, kind, item_id, joined = member.decode().split(_SEPARATOR, 3)
    categories = tuple(joined.split(CATEGORY_SEPARATOR)) if joined else ()
    return Visit(int(score), event_id, _TYPES[kind], item_id, categories)


class StateDecoder:
    """Makes an `EntityState` of what Redis returns."""

    def __init__(self, features: StateDefinition) -> None:
        self._ops = {a.name: a.op for a in features.aggregates if a.entity is Entity.ITEM}
        self._histories = {h.name: h for h in features.histories}
        self.kept = kept_histories(features.histories)

    def user(self, cells: Sequence[bytes], sets: Mapping[str, Sequence[bytes]]) -> EntityState:
        """What Redis sends, in its order, which is that of visits.

        Args:
            cells: names and amounts in turn.
            sets: for each kept history, members and scores in turn.
        """
        state = EntityState(_cells(cells))
        for name, flat in sets.items():
            visits = list(map(unpack_visit, flat[::2], flat[1::2]))
            if visits:
                for wanted, kept in self.kept.items():
                    if kept.name == name:
                        state.histories[wanted] = visits[-self._histories[wanted].size :]
        return state

    def item(self, shares: Iterable[Sequence[bytes]]) -> EntityState:
        """The merge of the shares that the partitions hold."""
        filled = [share for share in shares if share]
        if len(filled) == 1:
            return EntityState(_cells(filled[0]))
        state = EntityState()
        for share in filled:
            for cell, amount in _cells(share).items():
                state.change(Delta(cell, self._op(cell), amount))
        return state

    def _op(self, cell: str) -> Op:
        return self._ops[parse_cell(cell).name]


def _cells(flat: Sequence[bytes]) -> dict[str, int]:
    return dict(zip(map(bytes.decode, flat[::2]), map(int, flat[1::2]), strict=True))


def pack_item(item: Item) -> bytes:
    return msgspec.json.encode(item)


def unpack_item(raw: bytes) -> Item:
    return msgspec.json.decode(raw, type=Item)
