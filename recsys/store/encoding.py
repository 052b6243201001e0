"""The encoding of batches for the script that applies them, and of states in Redis.

A batch is the sum of its events' changes as one MessagePack value; binary parts are separate arguments, because Redis's
MessagePack knows text only. A cell is a hash field of eight bytes (`features.cells`) with its amount in decimal digits.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from hashlib import blake2b
from itertools import chain, pairwise
from typing import Any, NamedTuple

import msgspec
import numpy as np

from recsys.contracts.events import Event
from recsys.contracts.state import MAX_SUM, Delta, EntityState, History, Op, Visit, merged
from recsys.contracts.text import CATEGORY_SEPARATOR
from recsys.contracts.types import EventType, Topic
from recsys.features.aggregates import Entity
from recsys.features.cells import CODE_BYTES, CellCoding, Ints64, PackedCells, aggregates_of
from recsys.features.feature_set import FeatureSet
from recsys.native import core
from recsys.store.base import Batch, StateDefinition, StoreConfig
from recsys.store.compiled_fold import compiled_fold

ID_BYTES = 16
_SAME_IDS = (str(Topic.EVENTS), str(Topic.IMPRESSIONS))  # a replay sends by one what came by the other
_SEPARATOR = "\x1f"  # a control character, which no id may contain
_pack = msgspec.msgpack.Encoder().encode


def event_key(user_id: str, event_id: str) -> bytes:
    """The 16 bytes that stand for an event in the dedupe set. An even chance of a collision takes 2^64 events."""
    return blake2b(f"{user_id}{_SEPARATOR}{event_id}".encode(), digest_size=ID_BYTES).digest()


def stored_histories(histories: Iterable[History]) -> dict[str, History]:
    """History name → the history that is stored for it: of those with the same event types, the longest."""
    histories = list(histories)
    longest: dict[frozenset[EventType], History] = {}
    for history in sorted(histories, key=lambda h: (h.size, h.name)):
        longest[history.types] = history
    return {history.name: longest[history.types] for history in histories}


class KeyedEvent(NamedTuple):
    """One event of a batch. `key`: see `event_key`."""

    offset: int
    key: bytes
    event: Event


def keyed(batch: Batch) -> list[KeyedEvent]:
    """One row per event, duplicates included."""
    pairs = zip(batch.offsets, batch.events, strict=True)
    return [KeyedEvent(offset, event_key(event.user_id, event.event_id), event) for offset, event in pairs]


class _Changes(NamedTuple):
    """The summed changes of a batch as `apply.lua` reads them, packed already or not."""

    ids: Any
    visits: Any
    users: Any
    items: Any
    once: Any
    keys: bytes
    fields: bytes


class BatchEncoder:
    """Makes the arguments of `apply.lua`: the summed changes of a batch, so that each cell is sent once."""

    def __init__(self, features: StateDefinition, config: StoreConfig, native: bool = False) -> None:
        """`native`: compiled code folds the events."""
        self._features = features
        self._config = config
        self._stored = {h.name: h.size for h in stored_histories(features.histories).values()}
        self._codings = {e: CellCoding(features.aggregates, e) for e in (Entity.USER, Entity.ITEM)}
        self._native = native
        self.field = lru_cache(maxsize=1 << 17)(self._field)

    @cached_property
    def _fold(self) -> Any:
        """`core.Fold`; None: Python folds."""
        if self._native and isinstance(self._features, FeatureSet):
            return compiled_fold(self._features, self._stored, self._config.dedupe_bucket_ms)
        return None

    def encode(
        self, batch: Batch, rows: Sequence[KeyedEvent], parts: int, forgotten: str = "0"
    ) -> tuple[bytes, bytes, bytes]:
        """The batch with only these events, whose ids differ. `parts`: of the store, over which its users are spread.
        `forgotten`: version of the marks of forgotten users that were applied."""
        config = self._config
        header = {
            "epoch": batch.epoch,
            "previous": batch.previous,
            "next": batch.next_offset,
            "first": rows[0].offset if rows else batch.next_offset,
            "watermark": batch.watermark_ms,
            "oldest_bucket": (batch.watermark_ms - config.dedupe_ms) // config.dedupe_bucket_ms,
            "changes": config.changes,
            "idle_ms": config.idle_ms,
            "new_idle_ms": config.new_idle_ms,
            "new_cells": config.new_cells,
            "max_users": -(-config.max_users // parts),
            "max_items": config.max_items,
            "histories": sorted(self._stored),
            "forgotten": forgotten,
            "topics": _SAME_IDS if batch.topic in _SAME_IDS else (str(batch.topic),),
        }
        found = self._changes(rows) if self._fold is None else self._compiled_changes(rows)
        content = (
            header,
            found.ids,
            found.visits,
            (self._oldest_tiles(Entity.USER, batch.watermark_ms), found.users),
            (self._oldest_tiles(Entity.ITEM, batch.watermark_ms), found.items),
            found.once,
        )
        return _pack(content), found.keys, found.fields

    def _compiled_changes(self, rows: Sequence[KeyedEvent]) -> _Changes:
        *parts, keys, fields = self._fold.fold([*rows])
        ids, visits, users, items, once = map(msgspec.Raw, parts)
        return _Changes(ids, visits, users, items, once, keys, fields)

    def _changes(self, rows: Sequence[KeyedEvent]) -> _Changes:
        bucket_ms = self._config.dedupe_bucket_ms
        users: dict[str, dict[str, int]] = {}
        items: dict[str, dict[str, int]] = {}
        once: dict[tuple[str, int, tuple[str, ...]], dict[bytes, None]] = {}  # keys by item, bucket, cells
        visits: dict[tuple[str, str], list[int | str]] = {}
        buckets: dict[int, list[bytes]] = {}
        for _, key, event in rows:
            changes = self._features.fold(event)
            buckets.setdefault(event.event_time_ms // bucket_ms, []).append(key)
            if changes.user:
                _add(users.setdefault(event.user_id, {}), changes.user)
            if changes.item:
                _add(items.setdefault(event.item_id, {}), changes.item)
            for once_key, until_ms, counted in changes.once:
                group = event.item_id, until_ms // bucket_ms, counted
                once.setdefault(group, {})[once_key] = None
                for cell in counted:  # the script knows the amount
                    items.setdefault(event.item_id, {}).setdefault(cell, False)
            for history, visit in changes.visits:
                if history.name in self._stored:
                    members = visits.setdefault((history.name, event.user_id), [])
                    members += (visit.event_time_ms, pack_visit(visit))
        fields: list[bytes] = []
        return _Changes(
            [(bucket, len(keys)) for bucket, keys in buckets.items()],
            [(name, user, self._stored[name], members) for (name, user), members in visits.items()],
            self._rows(Entity.USER, users, fields),
            self._rows(Entity.ITEM, items, fields),
            self._once(items, once),
            b"".join([key for keys in (*buckets.values(), *once.values()) for key in keys]),
            b"".join(fields),
        )

    def _oldest_tiles(self, entity: Entity, watermark_ms: int) -> list[int]:
        """By index of the aggregate, the oldest tile that a reader at the watermark, or later, may need."""
        aggregates = self._codings[entity].aggregates
        return [(watermark_ms - a.retention_ms) // a.hop_ms if a.hop_ms else 0 for a in aggregates]

    def _rows(
        self, entity: Entity, changed: Mapping[str, Mapping[str, int]], fields: list[bytes]
    ) -> list[tuple[str, list[int], str]]:
        """Id, amounts and operations per entity; appends the fields."""
        rows = []
        for id_, cells in changed.items():
            names, ops = zip(*[self.field(entity, cell) for cell in cells], strict=True)
            fields += names
            rows.append((id_, list(cells.values()), "".join(ops)))
        return rows

    def _once(
        self,
        items: Mapping[str, Mapping[str, int]],
        once: Mapping[tuple[str, int, tuple[str, ...]], Collection[bytes]],
    ) -> list[tuple[int, int, int, list[int]]]:
        """Row of the item, bucket, number of keys and places of the cells in that row; both count from 1."""
        row_of = {item: number for number, item in enumerate(items, 1)}
        place_of = {
            item: {cell: place for place, cell in enumerate(items.get(item, ()), 1)} for item, _, _ in once
        }
        return [
            (row_of.get(item, 0), bucket, len(keys), [place_of[item][cell] for cell in cells])
            for (item, bucket, cells), keys in once.items()
        ]

    def _field(self, entity: Entity, cell: str) -> tuple[bytes, Op]:
        """The cell's field in Redis, and its operation."""
        coding = self._codings[entity]
        code = coding.code(cell)
        return code.to_bytes(CODE_BYTES, "big"), coding.op(code)


def _add(cells: dict[str, int], deltas: Iterable[Delta]) -> None:
    """Merge deltas of one entity; they are a monoid, as states are."""
    for cell, op, amount in deltas:
        old = cells.get(cell)
        cells[cell] = amount if old is None else merged(op, old, amount)


def pack_visit(visit: Visit) -> str:
    """A member of a history's sorted set. It starts with the event id: Redis orders equal scores by member, as visits
    are ordered. The separator sorts below every character of an id, so both orders agree on prefixes, too."""
    categories = CATEGORY_SEPARATOR.join(visit.categories)
    return _SEPARATOR.join((visit.event_id, visit.type, visit.item_id, categories))


@lru_cache(maxsize=1 << 16)
def unpack_visit(member: bytes, score: bytes) -> Visit:
    """The inverse of `pack_visit`. Cached: each request reads a user's history, which rarely changes between two.
    Raises `ValueError`: not a visit."""
    event_id, kind, item_id, joined = member.decode().split(_SEPARATOR, 3)
    categories = tuple(joined.split(CATEGORY_SEPARATOR)) if joined else ()
    return Visit(int(score), event_id, EventType(kind), item_id, categories)


class StateDecoder:
    """Turns Redis's replies into `EntityState`s."""

    def __init__(self, features: StateDefinition, native: bool = False) -> None:
        """`native`: compiled code reads the cells of users."""
        self._native = native
        self._codings = {e: CellCoding(features.aggregates, e) for e in (Entity.USER, Entity.ITEM)}
        self._histories = {h.name: h for h in features.histories}
        self.stored = stored_histories(features.histories)

    def cells(self, flat: list[bytes]) -> PackedCells:
        """Of a user, from fields and amounts in turn. Raises `ValueError`: they are not ours."""
        coding = self._codings[Entity.USER]
        if self._native:
            return PackedCells(coding, *core.cells(flat, len(coding.aggregates)))
        return PackedCells(coding, *_cells(coding, flat))

    def visits(self, flat: Sequence[bytes]) -> list[Visit]:
        """From members and scores in turn. Raises `ValueError`: they are not ours."""
        return list(map(unpack_visit, flat[::2], flat[1::2]))

    def user(self, cells: PackedCells | None, stored: Mapping[str, Sequence[Visit]]) -> EntityState:
        """`stored`: visits by the name of the stored history."""
        state = EntityState() if cells is None else EntityState(cells)
        for wanted, kept in self.stored.items():
            if visits := stored.get(kept.name):
                state.histories[wanted] = [*visits[-self._histories[wanted].size :]]
        return state

    def items(self, shares: Iterable[Sequence[Sequence[bytes]]]) -> list[EntityState]:
        """Merge the partitions' shares of each item, in one pass over the cells of all items.
        Raises `ValueError`: cells of some item are not ours."""
        coding = self._codings[Entity.ITEM]
        flats = [[*chain.from_iterable(of_item)] for of_item in shares]
        codes, amounts = _cells(coding, chain.from_iterable(flats))
        owners = np.repeat(np.arange(len(flats)), [len(flat) // 2 for flat in flats])
        owners, codes, amounts = merged_cells(coding, owners, codes, amounts)
        ends = np.searchsorted(owners, np.arange(len(flats) + 1))
        return [
            EntityState(PackedCells(coding, codes[start:end], amounts[start:end]))
            for start, end in pairwise(ends.tolist())
        ]


def _cells(coding: CellCoding, flat: Iterable[bytes]) -> tuple[Ints64, Ints64]:
    """Codes and amounts, (n,) int64 each, from fields and amounts in turn. Raises `ValueError`: not such cells."""
    every = [*flat]
    codes = np.frombuffer(b"".join(every[::2]), ">i8").astype(np.int64)
    try:
        amounts = np.fromiter(map(int, every[1::2]), np.int64)
    except OverflowError as error:
        raise ValueError(f"an amount does not fit 64 bits: {error}") from error
    known = (codes >= 0) & (aggregates_of(codes) < len(coding.aggregates))
    if len(codes) != len(amounts) or not known.all():
        raise ValueError("a field is not a cell of the feature definitions")
    return codes, amounts


def merged_cells(
    coding: CellCoding, owners: Ints64, codes: Ints64, amounts: Ints64
) -> tuple[Ints64, Ints64, Ints64]:
    """Each cell of each owner once, in the order of owners, merged by the cell's operation."""
    if not len(codes):
        return owners, codes, amounts
    order = np.lexsort((codes, owners))
    owners, codes, amounts = owners[order], codes[order], amounts[order]
    starts = np.flatnonzero(np.r_[True, (owners[1:] != owners[:-1]) | (codes[1:] != codes[:-1])])
    owners, codes = owners[starts], codes[starts]
    ops = np.array([a.op for a in coding.aggregates])[aggregates_of(codes)]
    results = np.minimum(np.add.reduceat(amounts, starts), MAX_SUM)
    for op, reduce in ((Op.MAX, np.maximum.reduceat), (Op.MIN, np.minimum.reduceat)):
        results = np.where(ops == op, reduce(amounts, starts), results)
    return owners, codes, results
