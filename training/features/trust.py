"""What training leaves out because it looks like manipulation (`recsys.trust`), from the events of a lake.

Two passes: `tally` counts in a bucket of users what is backed by impressions; `Verdicts.of` judges the sums of all
buckets; `trusted` then removes rows. Events that features are made of stay: serving counts them as well (ADR 11, ADR
27). Runs in Spark's executors: numpy and Arrow only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.contracts.merges import Merges
from recsys.contracts.types import ENGAGEMENT, MS_PER_DAY, NARROWED, EventType
from recsys.trust.judge import backed, over_credit, overflowing
from recsys.trust.rules import WHOLE
from training.features.arrow_columns import OWNER, TIME, sorted_events
from training.features.members import NO_MERGES, of_persons

TRUST = "trust.json"  # in the examples' folder: what was left out
# by which events are left out
REASONS = CLICKS, FAST, LISTS = "clicks_without_impressions", "faster_than_people", "narrowed_impressions"
JUDGED_COLUMNS = ("event_id", "type", "user_id", "item_id", TIME, "value")
_DAY, _ITEM = "day", "\x1f"  # no id has this character
OTHERS = (
    ""  # in place of an id: many items that cannot be suspects, with more unbacked users than backed ones
)
TALLY_KEY = ("item_id", "user_id", _DAY)
# one row per item and day, or per user and day that is left out as a whole
TALLY_SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),  # null: of a user's day, or of many items that cannot be suspects
        ("user_id", pa.string()),  # null: of an item's day
        (_DAY, pa.int64()),
        ("backed", pa.int64()),  # users who engaged with the item after it was shown to them
        ("unbacked", pa.int64()),  # the others
        ("backed_events", pa.int64()),
        ("events", pa.int64()),  # that are left out if the verdict is suspect
        ("narrowed", pa.int64()),  # impressions in lists that their requests narrowed: left out likewise
    ]
)
_WEEK = 7  # days: the window of what is weighed online (`recsys.features.definitions.WEIGHING`)
_ENGAGED = pa.array(sorted(map(str, ENGAGEMENT)))
_TYPES = pa.array(sorted([*map(str, ENGAGEMENT), str(EventType.IMPRESSION)]))


class Judgement(msgspec.Struct):
    """The content of `TRUST`: what was left out, by reason; the weights of suspect items (`weights_of`); of each
    day, a digest of the suspects that its examples depend on; and the mark of the log that was judged."""

    left_out: dict[str, int] = {}
    item_weights: dict[str, tuple[int, int]] = {}
    suspects: dict[str, str] = {}
    log: str = ""


@dataclass(frozen=True)
class Verdicts:
    """Suspects by UTC day: `items` (item_id, day), whose unbacked engagements are left out; `lists` (item_id, day), of
    whose narrowed lists the item's impressions are; `users` (user_id, day), whose whole day is. `left_out`: events
    by reason."""

    items: pa.Table = field(default_factory=lambda: TALLY_SCHEMA.empty_table().select(["item_id", _DAY]))
    lists: pa.Table = field(default_factory=lambda: TALLY_SCHEMA.empty_table().select(["item_id", _DAY]))
    users: pa.Table = field(default_factory=lambda: TALLY_SCHEMA.empty_table().select(["user_id", _DAY]))
    left_out: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, tallies: pa.Table) -> Self:
        """From the rows of all buckets; those of an item's day may come in parts."""
        users = tallies.filter(pc.is_valid(tallies.column("user_id")))
        parts = tallies.filter(pc.is_null(tallies.column("user_id")))
        summed = parts.group_by(["item_id", _DAY]).aggregate(
            [(name, "sum") for name in ("backed", "unbacked", "events")]
        )
        backed_users, unbacked_users, day = (
            np.asarray(summed.column(name), np.int64) for name in ("backed_sum", "unbacked_sum", _DAY)
        )
        suspect = pa.array(over_credit(backed_users, unbacked_users, day))
        named = pc.fill_null(pc.not_equal(summed.column("item_id"), OTHERS), False)
        items = summed.filter(pc.and_(suspect, named))
        found = cls(
            items.select(["item_id", _DAY]),
            cls().lists,
            users.select(["user_id", _DAY]),
            {
                CLICKS: pc.sum(items.column("events_sum")).as_py() or 0,
                FAST: pc.sum(users.column("events")).as_py() or 0,
                "item_days": items.num_rows,
                "user_days": users.num_rows,
            },
        )

        return found.with_lists(tallies)

    def with_lists(self, tallies: pa.Table) -> Self:
        """And the narrowed lists of items that are suspect on that day, or on the next: clicks come later.

        Args:
            tallies: at least the rows of the suspect items.
        """
        rows = tallies.filter(pc.greater(tallies.column("narrowed"), 0))
        days = rows.column(_DAY), pc.add(rows.column(_DAY), 1)
        same, next_day = (_among(rows.column("item_id"), day, self.items, "item_id") for day in days)
        rows = rows.filter(pa.array(same | next_day))
        lists = rows.group_by(["item_id", _DAY]).aggregate([("narrowed", "sum")])
        count = pc.sum(lists.column("narrowed_sum")).as_py() or 0
        left_out = {**self.left_out, LISTS: count}
        return replace(self, lists=lists.select(["item_id", _DAY]), left_out=left_out)

    def __bool__(self) -> bool:
        return bool(self.items.num_rows or self.users.num_rows)

    def of_examples(self, day: int) -> list[str]:
        """The suspects whom a day's examples depend on: users, then items that narrowed lists showed."""
        users, items = (table.filter(pc.equal(table.column(_DAY), day)) for table in (self.users, self.lists))
        named = (f"{_ITEM}{item_id}" for item_id in sorted(items.column("item_id").to_pylist()))
        return [*sorted(users.column("user_id").to_pylist()), *named]


def weights_of(tallies: pa.Table, verdicts: Verdicts, newest: int) -> dict[str, tuple[int, int]]:
    """Of suspect items: how many of `WHOLE` parts of their events, and of their users, of the newest week are backed.

    Args:
        tallies: at least the rows of the suspect items.
        newest: the log's last day (UTC), counted from 1970: an attack of before its week is over.
    """
    if not verdicts.items.num_rows:
        return {}
    since = newest - _WEEK
    suspect = verdicts.items.filter(pc.greater(verdicts.items.column(_DAY), since)).column("item_id")
    recent = pc.and_(pc.is_in(tallies.column("item_id"), suspect), pc.greater(tallies.column(_DAY), since))
    names = ("backed_events", "events", "backed", "unbacked")
    sums = tallies.filter(recent).group_by("item_id").aggregate([(name, "sum") for name in names])
    found = {}
    for row in sums.to_pylist():
        good_events, bad_events, good, bad = (row[f"{name}_sum"] for name in names)
        found[row["item_id"]] = (
            WHOLE * good_events // (good_events + bad_events),
            WHOLE * good // (good + bad),
        )
    return found


def tally(rows: pa.Table, merges: Merges = NO_MERGES) -> pa.Table:
    """What `Verdicts.of` needs to know of some users, from all their events (`JUDGED_COLUMNS`): `TALLY_SCHEMA`."""
    rows = _persons(rows, merges)
    lists = _narrowed_lists(rows)
    rows = rows.filter(pa.array(~_narrowed(rows)))
    engaged, is_backed = _backed(rows)
    day = np.asarray(rows.column(TIME), np.int64) // MS_PER_DAY
    owner, item = _codes(rows.column(OWNER)), _codes(rows.column("item_id"))
    pairs = np.stack((item[engaged], day[engaged], owner[engaged], is_backed[engaged]), axis=1)
    found, events = np.unique(pairs, axis=0, return_counts=True)
    keys, place = np.unique(found[:, :2], axis=0, return_inverse=True)
    sides = [np.bincount(place, found[:, 3] == side, len(keys)).astype(np.int64) for side in (1, 0)]
    numbers = [
        np.bincount(place, events * (found[:, 3] == side), len(keys)).astype(np.int64) for side in (1, 0)
    ]
    ids = rows.column("item_id").combine_chunks().dictionary_encode().dictionary
    names = ("backed", "unbacked", "backed_events", "events")
    items = _tallies(
        len(keys),
        item_id=ids.take(pa.array(keys[:, 0])),
        day=keys[:, 1],
        **dict(zip(names, (*sides, *numbers), strict=True)),
    )
    return pa.concat_tables([items, lists, _fast_users(rows, engaged, day)])


def _narrowed_lists(rows: pa.Table) -> pa.Table:
    """How often narrowed lists showed an item on a day."""
    rows = rows.filter(pa.array(_narrowed(rows)))
    keys = pa.table({"item_id": rows.column("item_id"), _DAY: pc.divide(rows.column(TIME), MS_PER_DAY)})
    found = keys.group_by(["item_id", _DAY]).aggregate([([], "count_all")])
    return _tallies(
        len(found),
        item_id=found.column("item_id"),
        day=found.column(_DAY),
        narrowed=found.column("count_all"),
    )


def _fast_users(rows: pa.Table, engaged: NDArray[np.bool_], day: NDArray[np.int64]) -> pa.Table:
    """The days on which a user id engaged faster than people do."""
    at = np.flatnonzero(engaged)
    user = _codes(rows.column("user_id"))
    over = overflowing(user[at], np.asarray(rows.column(TIME), np.int64)[at])
    days, place, events = np.unique(
        np.stack((user[at], day[at]), axis=1), axis=0, return_inverse=True, return_counts=True
    )
    fast = np.unique(place.ravel()[over])
    ids = rows.column("user_id").combine_chunks().dictionary_encode().dictionary
    return _tallies(
        len(fast), user_id=ids.take(pa.array(days[fast, 0])), day=days[fast, 1], events=events[fast]
    )


def _tallies(n: int, **known: Any) -> pa.Table:
    """Rows of `TALLY_SCHEMA`; ids that are not given are null, numbers 0."""
    zeros = np.zeros(n, np.int64)
    missing = {f.name: pa.nulls(n, f.type) if f.type == pa.string() else zeros for f in TALLY_SCHEMA}
    return pa.table(missing | known, schema=TALLY_SCHEMA)


def trusted(rows: pa.Table, verdicts: Verdicts, merges: Merges = NO_MERGES) -> pa.Table:
    """The engagements of some users that count, from all their events (`JUDGED_COLUMNS`)."""
    rows = _judged(rows, merges)
    engaged, is_backed = _backed(rows)
    day = pc.divide(rows.column(TIME), MS_PER_DAY)
    fast = _among(rows.column("user_id"), day, verdicts.users, "user_id")
    pushed = _among(rows.column("item_id"), day, verdicts.items, "item_id") & ~is_backed
    return rows.filter(pa.array(engaged & ~fast & ~pushed)).drop_columns([OWNER])


def trusted_examples(examples: pa.Table, rows: pa.Table, verdicts: Verdicts) -> pa.Table:
    """Examples without those of a day that is left out, and without a suspect's impressions in narrowed lists: with
    these go the outcomes that belong to them, which would else be another list's.

    Args:
        rows: the events that the examples were made of.
    """
    day = pc.divide(examples.column(TIME), MS_PER_DAY)
    left_out = _among(examples.column("user_id"), day, verdicts.users, "user_id")
    if verdicts.lists.num_rows:
        shown = rows.filter(pa.array(_narrowed(rows)))
        day = pc.divide(shown.column(TIME), MS_PER_DAY)
        pushed = shown.filter(pa.array(_among(shown.column("item_id"), day, verdicts.lists, "item_id")))
        theirs, known = (
            pc.binary_join_element_wise(table.column("user_id"), table.column(name), _ITEM)
            for table, name in ((pushed, "event_id"), (examples, "example_id"))
        )
        left_out |= np.asarray(pc.is_in(known, value_set=theirs.combine_chunks()), bool)
    return examples.filter(pa.array(~left_out))


def _judged(rows: pa.Table, merges: Merges) -> pa.Table:
    """Engagements, and the impressions that can back them."""
    rows = _persons(rows, merges)
    return rows.filter(pa.array(~_narrowed(rows)))


def _persons(rows: pa.Table, merges: Merges) -> pa.Table:
    """Engagements and impressions, each once, by person and time."""
    rows = rows.filter(pc.is_in(rows.column("type"), value_set=_TYPES))
    return sorted_events(of_persons(rows, merges), OWNER)


def _backed(rows: pa.Table) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows are engagements, and which follow an impression of their item to the same person."""
    engaged = np.asarray(pc.is_in(rows.column("type"), value_set=_ENGAGED))
    items = _codes(rows.column("item_id"))
    pair = _codes(rows.column(OWNER)) * (items.max(initial=0) + 1) + items
    return engaged, backed(pair, np.asarray(rows.column(TIME), np.int64), ~engaged)


def _narrowed(rows: pa.Table) -> NDArray[np.bool_]:
    """(n,) which rows are impressions of lists that their request narrowed."""
    shown = pc.equal(rows.column("type"), str(EventType.IMPRESSION))
    narrowed = pc.fill_null(pc.greater_equal(rows.column("value"), NARROWED), False)
    return np.asarray(pc.and_(shown, narrowed), bool)


def _among(ids: pa.ChunkedArray, day: pa.ChunkedArray, suspects: pa.Table, key: str) -> NDArray[np.bool_]:
    """(n,) which rows' (id, day) are suspects."""
    known = pc.unique(suspects.column(key))
    place = np.asarray(pc.fill_null(pc.index_in(ids, value_set=known), -1), np.int64)
    listed = np.asarray(pc.index_in(suspects.column(key), value_set=known), np.int64)
    n = len(known) + 1
    codes = np.asarray(suspects.column(_DAY), np.int64) * n + listed
    return np.isin(np.asarray(day, np.int64) * n + place, codes)


def _codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return np.asarray(column.combine_chunks().dictionary_encode().indices, np.int64)
