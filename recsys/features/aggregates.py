"""Aggregates: which events enter which cells of a user's or an item's state.

A feature (`recsys.features.spec`) is read from aggregates. Time is cut into tiles of `hop_ms`; a tile's cell counts
what happened in [tile · hop, (tile + 1) · hop), as in chronon.
"""

import math
import zlib
from bisect import bisect_right
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from recsys.contracts.events import Event
from recsys.contracts.state import MAX_AMOUNT, Delta, Op
from recsys.contracts.types import MS_PER_DAY, EventType


class Entity(StrEnum):
    """What a feature depends on. Only users and items have state."""

    USER = "user"
    ITEM = "item"
    USER_ITEM = "user_item"
    CONTEXT = "context"


class Measure(StrEnum):
    """What one event contributes."""

    ONE = "one"  # 1
    VALUE = "value"  # round(value · scale): dwell milliseconds, tenths of a star
    TIME = "time"  # event_time_ms
    LOG2 = "log2"  # floor(64 · log2(1 + value)): a sum of logarithms is not carried away by a few long views
    EXAMINED = "examined"  # thousandths of a look: how likely the event's position in the list was seen


OF_VALUES = (Measure.VALUE, Measure.LOG2)  # only events with a value count


class Split(StrEnum):
    """By what an aggregate counts apart: not at all, or by the category, creator or id of the event's item."""

    NONE = ""
    CATEGORY = "category"
    CREATOR = "creator"
    ITEM = "item"


TILE_MARK = "@"
KEY_MARK = "#"

# round(1000 / log2(2 + position)), the discount of NDCG: at the top a list is always looked at, at the tenth place one
# time in 3.5. A fixed table, since an amount must be the same wherever it is counted.
LOOKS_SCALE = 1_000
LOOKS_AT = tuple(round(LOOKS_SCALE / math.log2(2 + position)) for position in range(100))


def looks_at(position: int | None) -> int:
    """What an impression at a position counts; positions after the table count as its last, none as the first.

    >>> looks_at(0), looks_at(9), looks_at(None)
    (1000, 289, 1000)
    """
    return LOOKS_AT[min(position or 0, len(LOOKS_AT) - 1)]


# In 64 steps an octave. The steps are doubles from 30 digits, so no library's logarithm is asked.
LOG2_SCALE = 64
LOG2_STEPS = tuple(float(Decimal(2) ** (Decimal(step) / LOG2_SCALE)) for step in range(LOG2_SCALE))


def log2_amount(value: float) -> int:
    """floor(64 · log2(1 + value)) for value ≥ 0; 0 below.

    >>> log2_amount(0.0), log2_amount(1.0), log2_amount(1023.0)
    (0, 64, 640)
    """
    mantissa, exponent = math.frexp(1.0 + max(value, 0.0))  # in [0.5, 1)
    return (exponent - 1) * LOG2_SCALE + bisect_right(LOG2_STEPS, 2 * mantissa) - 1


# Categories, creators and items are hashed into this many buckets. A bound such as "keep the k largest" would depend on
# the order of arrival; hashing keeps the state a monoid.
BUCKETS = 4096
CATEGORIES_PER_EVENT = 4  # a split counts the first ones, the main ones


def bucket_of(text: str) -> int:
    """The bucket of a category, creator or item id: CRC-32, the same everywhere."""
    return zlib.crc32(text.encode()) % BUCKETS


@lru_cache(maxsize=1 << 12)  # 65,536 would take 20 MB in each process
def category_buckets(categories: tuple[str, ...]) -> tuple[int, ...]:
    """The buckets of an item's main categories, in their order."""
    return tuple(bucket_of(category) for category in categories[:CATEGORIES_PER_EVENT])


def creator_buckets(creator: str) -> tuple[int, ...]:
    """The creator's bucket; none for an unknown creator."""
    return (bucket_of(creator),) if creator else ()


def split_buckets(split: Split, event: Event) -> tuple[int, ...]:
    """The buckets of what an event is split by."""
    if split is Split.CATEGORY:
        return category_buckets(event.categories)
    return creator_buckets(event.creator) if split is Split.CREATOR else (bucket_of(event.item_id),)


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Cells of one entity that certain events change.

    Cell names: `name`, `name@tile`, `name#bucket`, `name@tile#bucket`. `hop_ms` 0: one cell for all time. Otherwise
    tiles, which are needed for `retention_ms`, a multiple of the hop.
    """

    name: str
    entity: Entity
    types: frozenset[EventType]
    measure: Measure = Measure.ONE
    op: Op = Op.ADD
    hop_ms: int = 0
    retention_ms: int = 0
    split: Split = Split.NONE
    min_value: float | None = None  # count only events with at least this value, such as four stars
    scale: int = 1  # of Measure.VALUE; of others what their amounts are in: LOOKS_SCALE, LOG2_SCALE
    attributed: bool = False  # count only events with the id of the request that showed the item
    once: bool = False  # count each user of an item once in each `once_period_ms`

    def accepts(self, event: Event) -> bool:
        if event.type not in self.types or (self.attributed and event.request_id is None):
            return False
        if self.measure in OF_VALUES and event.value is None:
            return False
        return self.min_value is None or (event.value is not None and event.value >= self.min_value)

    def keys(self, event: Event) -> list[str]:
        """The suffixes of the cells that an accepted event changes: "" or `#bucket`s."""
        if self.split is Split.NONE:
            return [""]
        return [f"{KEY_MARK}{bucket}" for bucket in split_buckets(self.split, event)]

    def amount(self, event: Event) -> int:
        """What an accepted event contributes: 0 … `MAX_AMOUNT`, or a time."""
        if self.measure is Measure.ONE:
            return 1
        if self.measure is Measure.TIME:
            return event.event_time_ms
        if self.measure is Measure.EXAMINED:
            return looks_at(event.position)
        if self.measure is Measure.LOG2:
            return log2_amount(event.value or 0.0)
        return min(max(round((event.value or 0.0) * self.scale), 0), MAX_AMOUNT)

    def stem(self, time_ms: int) -> str:
        """The cell name of that time, without the bucket."""
        return f"{self.name}{TILE_MARK}{time_ms // self.hop_ms}" if self.hop_ms else self.name

    def fold(self, event: Event) -> list[Delta]:
        """The changes that an accepted event makes."""
        stem = self.stem(event.event_time_ms)
        amount = self.amount(event)
        return [Delta(stem + key, self.op, amount) for key in self.keys(event)]


def once_period_ms(hop_ms: int) -> int:
    """How long a user stays counted where each counts once: a tile, or for cells of all time a day."""
    return hop_ms or MS_PER_DAY


class Cell(NamedTuple):
    """The parts of a cell's name. `tile` and `bucket` are -1 where the name has none."""

    name: str
    tile: int
    bucket: int


@lru_cache(maxsize=1 << 16)
def parse_cell(cell: str) -> Cell:
    """The inverse of a cell's name. Cached: the users of a day share most names.

    >>> parse_cell("click.d@19000#17")
    Cell(name='click.d', tile=19000, bucket=17)
    """
    stem, _, bucket = cell.partition(KEY_MARK)
    name, _, tile = stem.partition(TILE_MARK)
    return Cell(name, int(tile) if tile else -1, int(bucket) if bucket else -1)
