"""Labelled impressions, without their features: who was shown what, and what followed.

`recsys.contracts.attribution` says which impression an outcome belongs to. An order is a click, in a log without
clicks, too; a view labels nothing. In logs without impressions (ratings), each engagement that no impression accounts
for is a positive, and items drawn by their popularity up to that instant are its negatives (`sampled`); a dislike is a
negative itself. They have no served vector; that is one reason why features are recomputed (ADR 11).

Runs on a bucket of users in Spark's executors: numpy and Arrow only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.contracts.types import GOOD_STARS, GREAT_STARS, MS_PER_DAY, EventType
from recsys.features.definitions import ENGAGEMENT, STARRED
from training.features.arrow_columns import KINDS, TIME, sorted_events

NO_POSITION = -1

_NEVER_MS = np.iinfo(np.int64).max
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # of splitmix64
_CLICKED = frozenset({EventType.CLICK, EventType.ADD_TO_CART, EventType.PURCHASE})
_DRAWS = 3  # candidates drawn per negative: some are known to the user, or repeat

# What an event says about its item; the later passes read it from the example.
ITEM_CONTEXT = ("categories", "creator")


@dataclass(frozen=True)
class LabelConfig:
    """`first_ms` ≤ time of an example < `end_ms`. `unshown`: types that are examples without an impression.
    `only_named`: types that belong to an impression only by the request that they name."""

    first_ms: int
    end_ms: int
    window_ms: int = MS_PER_DAY
    unshown: frozenset[EventType] = STARRED
    only_named: frozenset[EventType] = frozenset()
    negatives: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Popularity:
    """All users' engagements by time: drawing one before t draws an item by its popularity at t.

    `times` (m,) int64 ascending, `items` (m,) int32 rows of the lists.
    """

    times: NDArray[np.int64]
    items: NDArray[np.int32]
    ids: list[str] = field(default_factory=list)
    categories: list[str | None] = field(default_factory=list)
    creators: list[str | None] = field(default_factory=list)


def example_schema(context: tuple[str, ...]) -> pa.Schema:
    """Columns of an example without features; `context`: the columns of request attributes that features read."""
    ids = ("example_id", "request_id", "user_id", "item_id")
    columns: dict[str, pa.DataType] = dict.fromkeys(ids, pa.string())
    columns |= {TIME: pa.int64(), "position": pa.int64()}
    columns |= dict.fromkeys(("click", "conversion", "like"), pa.int8())
    columns |= {"dwell_ms": pa.int64(), "sampled": pa.bool_()}
    return pa.schema(columns | dict.fromkeys((*ITEM_CONTEXT, *context), pa.string()))


def label(
    rows: pa.Table, config: LabelConfig, context: tuple[str, ...] = (), popularity: Popularity | None = None
) -> pa.Table:
    """The examples of some users' events (all of theirs up to `end_ms + window_ms`), by user and time."""
    rows = sorted_events(rows, "user_id")
    log = _Log(rows)
    shown = np.flatnonzero(log.kind == _code(EventType.IMPRESSION))
    outcome = np.flatnonzero(log.kind != _code(EventType.IMPRESSION))
    by_request = log.owner(shown, outcome, log.request, config.window_ms)
    by_item = log.owner(shown, outcome, log.pair, config.window_ms)
    by_item[_any_of(log.kind[outcome], config.only_named)] = -1
    owner = np.where(log.request[outcome] >= 0, by_request, by_item)

    loose = outcome[owner < 0]
    allowed = _any_of(log.kind[loose], config.unshown) & (log.request[loose] < 0)
    alone = log.first_of_each(loose[allowed], config.window_ms)
    loose_owner = log.owner(alone, loose, log.pair, config.window_ms)

    positives = np.concatenate((shown, alone))
    effects = np.concatenate((outcome, loose))
    owners = np.concatenate((owner, np.where(loose_owner >= 0, loose_owner + shown.size, -1)))
    table = _labelled(rows, log, positives, effects[owners >= 0], owners[owners >= 0], context)
    wanted = (log.time[positives] >= config.first_ms) & (log.time[positives] < config.end_ms)
    examples = table.filter(pa.array(wanted))
    if popularity is None or not config.negatives:
        return examples
    chosen = log.kind[alone] != _code(EventType.DISLIKE)
    of_choices = np.concatenate((np.zeros(shown.size, bool), chosen))[wanted]
    drawn = _negatives(examples.filter(pa.array(of_choices)), log, config, popularity)
    return pa.concat_tables([examples, drawn])


class _Log:
    """Sorted rows as arrays, with codes for (user, item) and (user, item, request); -1: no request."""

    def __init__(self, rows: pa.Table) -> None:
        self.time = np.asarray(rows.column(TIME), np.int64)
        self.kind = np.asarray(pc.index_in(rows.column("type"), value_set=KINDS)).astype(np.int64)
        self.value = np.asarray(pc.fill_null(rows.column("value"), np.nan), np.float64)
        users, self._user_ids = _codes(rows.column("user_id"))
        items, self._item_ids = _codes(rows.column("item_id"))
        self.pair = users * len(self._item_ids) + items
        requests, _ = _codes(pc.fill_null(rows.column("request_id"), ""))
        named = np.asarray(pc.is_valid(rows.column("request_id")))
        self.request = np.where(named, requests * (self.pair.max(initial=0) + 1) + self.pair, -1)

    def first_engaged_ms(self, users: pa.ChunkedArray, items: list[str]) -> NDArray[np.int64]:
        """Time of each pair's first engagement; far in the future if there is none."""
        user = np.asarray(pc.index_in(users, value_set=self._user_ids), np.int64)
        item = pc.fill_null(pc.index_in(pa.array(items, pa.string()), value_set=self._item_ids), -1)
        asked = user * len(self._item_ids) + np.asarray(item, np.int64)
        engaged = np.flatnonzero(_any_of(self.kind, ENGAGEMENT))
        engaged = engaged[np.argsort(self.time[engaged], kind="stable")]
        pairs, first = np.unique(self.pair[engaged], return_index=True)
        place = np.minimum(np.searchsorted(pairs, asked), max(pairs.size - 1, 0))
        known = (np.asarray(item) >= 0) & (pairs[place] == asked)
        return np.where(known, self.time[engaged][first][place], _NEVER_MS)

    def owner(
        self, shown: NDArray[np.intp], outcome: NDArray[np.intp], code: NDArray[np.int64], window_ms: int
    ) -> NDArray[np.int64]:
        """For each outcome, the place in `shown` of the latest one with its code within the window before it, or -1."""
        if not shown.size or not outcome.size:
            return np.full(outcome.size, -1, np.int64)
        order = np.lexsort((self.time[shown], code[shown]))
        codes, times = code[shown][order], self.time[shown][order]
        # one sort over both finds each outcome's last shown row that is not after it
        both = np.concatenate((codes, code[outcome])), np.concatenate((times, self.time[outcome]))
        kind = np.concatenate((np.zeros(codes.size, np.int8), np.ones(outcome.size, np.int8)))
        merged = np.lexsort((kind, both[1], both[0]))
        seen = np.cumsum(kind[merged] == 0) - 1
        last = np.empty(outcome.size, np.int64)
        is_outcome = kind[merged] == 1
        last[merged[is_outcome] - codes.size] = seen[is_outcome]
        place = np.maximum(last, 0)
        gap = self.time[outcome] - times[place]
        fits = (last >= 0) & (codes[place] == code[outcome]) & (code[outcome] >= 0) & (gap <= window_ms)
        return np.where(fits, order[place], -1)

    def first_of_each(self, rows: NDArray[np.intp], window_ms: int) -> NDArray[np.intp]:
        """The first of those events of a pair that follow one another within the window."""
        order = rows[np.lexsort((np.arange(rows.size), self.time[rows], self.pair[rows]))]
        new = np.ones(order.size, bool)
        same = self.pair[order][1:] == self.pair[order][:-1]
        new[1:] = ~same | (np.diff(self.time[order]) > window_ms)
        return np.sort(order[new])


def _labelled(
    rows: pa.Table,
    log: _Log,
    positives: NDArray[np.intp],
    effects: NDArray[np.intp],
    owners: NDArray[np.int64],
    context: tuple[str, ...],
) -> pa.Table:
    """One row for each of `positives`; `effects[i]` happened because of positives[owners[i]]."""
    kind, value, n = log.kind[effects], log.value[effects], positives.size
    rated = kind == _code(EventType.RATING)
    clicked = rated | _any_of(kind, _CLICKED)
    converted = (kind == _code(EventType.PURCHASE)) | (rated & (value >= GOOD_STARS))
    liked = (kind == _code(EventType.LIKE)) | (rated & (value >= GREAT_STARS))
    dwelt = (kind == _code(EventType.DWELL)) & (value > 0)
    dwell = np.bincount(owners[dwelt], np.rint(value[dwelt]), minlength=n).astype(np.int64)

    def flag(chosen: NDArray[np.bool_]) -> pa.Array:
        return pa.array((np.bincount(owners[chosen], minlength=n) > 0).astype(np.int8))

    picked = rows.take(pa.array(positives))
    columns = {
        "example_id": picked.column("event_id"),
        **{name: picked.column(name) for name in ("request_id", "user_id", "item_id", TIME)},
        "position": pc.cast(pc.fill_null(picked.column("position"), NO_POSITION), pa.int64()),
        "click": flag(clicked),
        "conversion": flag(converted),
        "like": flag(liked),
        "dwell_ms": pa.array(dwell),
        "sampled": pa.array(np.zeros(n, bool)),
        **{name: picked.column(name) for name in (*ITEM_CONTEXT, *context)},
    }
    return pa.table(columns).cast(example_schema(context))


def _negatives(examples: pa.Table, log: _Log, config: LabelConfig, popularity: Popularity) -> pa.Table:
    """Up to `config.negatives` rows per example: items popular before it that the user had not engaged with."""
    n, wanted = examples.num_rows, config.negatives
    if not n or not popularity.ids:
        return examples.slice(0, 0)
    times = np.asarray(examples.column(TIME), np.int64)
    ids = examples.column("example_id").to_pylist()
    hashes = (blake2b(f"{config.seed} {i}".encode(), digest_size=8).digest() for i in ids)
    seeds = np.frombuffer(b"".join(hashes), "<u8")
    before = np.searchsorted(popularity.times, times)
    draws = (_uniform(seeds, wanted * _DRAWS) * before[:, None]).astype(np.int64)

    owner = np.repeat(np.arange(n), draws.shape[1])
    drawn = popularity.items[draws.ravel()].astype(np.int64)
    users = examples.column("user_id").take(pa.array(owner))
    engaged_ms = log.first_engaged_ms(users, [popularity.ids[i] for i in drawn])
    _, first = np.unique(owner * (drawn.max(initial=0) + 1) + drawn, return_index=True)
    is_first = np.isin(np.arange(owner.size), first)  # of equal draws for one example
    fits = (before[owner] > 0) & (engaged_ms > times[owner]) & is_first
    so_far = np.concatenate(([0], np.cumsum(fits)))
    rank = so_far[1:] - so_far[owner * draws.shape[1]] - 1
    fits &= rank < wanted
    owner, drawn, rank = owner[fits], drawn[fits], rank[fits]

    table = examples.take(pa.array(owner))
    drawn_items: dict[str, Sequence[str | None]] = {
        "item_id": popularity.ids,
        "categories": popularity.categories,
        "creator": popularity.creators,
    }
    zero = pa.array(np.zeros(owner.size, np.int8))
    replaced = {
        "example_id": pa.array([f"{ids[o]}-{r}" for o, r in zip(owner, rank, strict=True)], pa.string()),
        **{name: pa.array([texts[i] for i in drawn], pa.string()) for name, texts in drawn_items.items()},
        **dict.fromkeys(("click", "conversion", "like"), zero),
        "dwell_ms": zero.cast(pa.int64()),
        "sampled": pa.array(np.ones(owner.size, bool)),
    }
    return pa.table({name: replaced.get(name, table.column(name)) for name in table.column_names})


def _uniform(seeds: NDArray[np.uint64], draws: int) -> NDArray[np.float64]:
    """(n, draws) numbers in [0, 1) by splitmix64 from each seed."""
    state = seeds[:, None] + _GOLDEN * np.arange(1, draws + 1, dtype=np.uint64)
    state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    uniform: NDArray[np.float64] = (state >> np.uint64(11)) * 2.0**-53
    return uniform


def _codes(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], pa.Array]:
    encoded = column.combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices, np.int64), encoded.dictionary


def _any_of(kinds: NDArray[np.int64], wanted: frozenset[EventType]) -> NDArray[np.bool_]:
    return np.isin(kinds, [_code(kind) for kind in wanted])


def _code(kind: EventType) -> int:
    return tuple(EventType).index(kind)
