"""The nouns that every package shares."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

MS_PER_SECOND = 1_000
MS_PER_MINUTE = 60 * MS_PER_SECOND
MS_PER_HOUR = 60 * MS_PER_MINUTE
MS_PER_DAY = 24 * MS_PER_HOUR


MIN_STARS = 3.0  # a rating below the middle of the scale is a dislike
GOOD_STARS = 4.0
GREAT_STARS = 5.0
MAX_STARS = 5.0
# From this place on a list is narrowed (ADR 27): no visitor looks that far without wanting to. What a request excludes,
# such as the pages before, counts as places.
DEEP = 100
NARROWED = 1.0  # `Event.value` of an impression of a list that its request narrowed


class EventType(StrEnum):
    """What a user did. The comments say what `Event.value` holds; the other types have none."""

    IMPRESSION = "impression"  # `NARROWED`, or none
    CLICK = "click"
    DWELL = "dwell"  # milliseconds
    LIKE = "like"
    ADD_TO_CART = "add_to_cart"  # price, or none
    PURCHASE = "purchase"  # price
    RATING = "rating"  # 1 to 5 stars
    DISLIKE = "dislike"  # a thumb down; or the stars of a rating below `MIN_STARS`
    VIEW = "view"  # of an item's page, however the user came there: history, never a label


# What a user's history is made of: what the models read, what counts as popular, what the seen filter hides.
ENGAGEMENT = frozenset(
    {
        EventType.VIEW,
        EventType.CLICK,
        EventType.LIKE,
        EventType.ADD_TO_CART,
        EventType.PURCHASE,
        EventType.RATING,
    }
)


class Topic(StrEnum):
    """Kafka topics, keyed by user id; `ITEMS` is keyed by item id."""

    EVENTS = "events"
    IMPRESSIONS = "impressions"
    ITEMS = "items"
    USERS = "users"
    DEAD_LETTER = "dead-letter"


class Device(StrEnum):
    """Where onnxruntime runs the ranker. Operators without a CUDA kernel, such as 8-bit products, stay on the CPU."""

    CPU = "cpu"
    CUDA = "cuda"


class Diversity(StrEnum):
    """Which objective the reranker uses."""

    NONE = "none"
    MMR = "mmr"
    DPP = "dpp"
    FATIGUE = "fatigue"


class Exploring(StrEnum):
    """How exploration places draw their item."""

    UNIFORM = "uniform"
    THOMPSON = "thompson"


class Head(StrEnum):
    """What the ranker predicts. `DWELL` is log1p(seconds); the others are probabilities."""

    CLICK = "click"
    CONVERSION = "conversion"  # given a click: purchase, long view
    LIKE = "like"
    DWELL = "dwell"


@dataclass(frozen=True, slots=True)
class Item:
    """A catalogue entry. The first category is the main one; `attributes` are free text by name.

    It may be shown from `available_from_ms` on and before `available_until_ms`, to requests of its `regions`, with its
    title in their language."""

    item_id: str
    title: str = ""
    categories: tuple[str, ...] = ()
    creator: str = ""
    created_ms: int = 0  # 0: unknown
    attributes: Mapping[str, str] = field(default_factory=dict)
    available_from_ms: int = 0  # 0: always
    available_until_ms: int = 0  # 0: forever
    regions: tuple[str, ...] = ()  # none: everywhere
    titles: Mapping[str, str] | None = None  # by language (`recsys.contracts.languages`)


@dataclass(frozen=True, slots=True)
class User:
    """A known user's static attributes, by name."""

    user_id: str
    attributes: Mapping[str, str] = field(default_factory=dict)
