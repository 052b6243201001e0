"""The impression log: what was shown, by which bundle and arm, and the feature values that were served.

Rankers train on values that Spark recomputes at the same instant (ADR 11); the served ones are evidence, which
`recsys bench parity` compares with them. One record per request on the topic `impressions`; the feature worker expands
it into one impression event per item.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidEvent
from recsys.contracts.events import (
    Event,
    derived_id,
    item_context,
    parse_context,
    parse_id,
    parse_position,
    parse_text,
    parse_time,
)
from recsys.contracts.text import free_text
from recsys.contracts.types import DEEP, NARROWED, EventType

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class ShownItem:
    """One line of the list. `propensity`: probability that the policy put it there (1.0: deterministic)."""

    item_id: str
    position: int
    score: float
    propensity: float = 1.0
    channels: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    creator: str = ""


@dataclass(frozen=True, slots=True)
class Impression:
    """One answered request. `features` is (n_items, n_features) float32, columns in the bundle's order. From the place
    `narrowed_from` on, the list is no evidence of what the shop prefers (`Query.narrowed_from`); 0: none of it is."""

    request_id: str
    user_id: str
    time_ms: int
    bundle: str
    fingerprint: str
    items: Sequence[ShownItem]
    features: NDArray[np.float32]
    arm: str = ""
    context: dict[str, str] = field(default_factory=dict)
    narrowed_from: int = DEEP

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the features are base64 of little-endian float32, row by row. What the topic carries is
        `recsys.contracts.impression_record`."""
        items = [
            {name: getattr(i, name) for name in ShownItem.__slots__}
            | {"channels": list(i.channels), "categories": list(i.categories)}
            for i in self.items
        ]
        block = base64.b64encode(np.ascontiguousarray(self.features, dtype="<f4").tobytes()).decode()
        return {name: getattr(self, name) for name in Impression.__slots__} | {
            "items": items,
            "features": block,
        }


def parse_impression(raw: Any) -> Impression:
    """The inverse of `Impression.to_dict`; the features may be bytes, too. What it accepts can be expanded, and written
    to the lake: any other record would stop the readers of the log. Raises `InvalidEvent`: a field is missing or
    invalid, or the feature block does not fit the number of items."""
    try:
        items = tuple(
            ShownItem(
                item_id=parse_id(i.get("item_id"), "item_id"),
                position=parse_position(i["position"]),
                score=_number(i["score"], "score"),
                propensity=_number(i["propensity"], "propensity"),
                channels=_texts(i["channels"], "channels"),
                categories=_texts(i["categories"], "categories", free_text),
                creator=_known_text(i.get("creator", ""), "creator", free_text),
            )
            for i in raw["items"]
        )
        features = raw["features"]
        block = np.frombuffer(
            features if type(features) is bytes else base64.b64decode(features), dtype="<f4"
        )
        arm = parse_text(raw["arm"], "arm", str)
        parse_exposures(arm)
        return Impression(
            request_id=parse_id(raw.get("request_id"), "request_id"),
            user_id=parse_id(raw.get("user_id"), "user_id"),
            time_ms=parse_time(raw["time_ms"], "time_ms"),
            bundle=parse_text(raw["bundle"], "bundle", str),
            fingerprint=parse_text(raw["fingerprint"], "fingerprint", str),
            items=items,
            features=block.reshape(len(items), -1) if items else block.reshape(0, 0),
            arm=arm,
            context=dict(parse_context(raw["context"])),
            narrowed_from=_place(raw.get("narrowed_from", DEEP), "narrowed_from"),
        )
    except (AttributeError, KeyError, TypeError, ValueError, InvalidEvent) as error:
        raise InvalidEvent(f"impression: {type(error).__name__}: {error}") from error


def _number(value: Any, name: str) -> float:
    if type(value) not in (int, float) or not abs(value) <= _LARGEST:
        raise InvalidEvent(f"{name}: a finite float32 is required, got {value!r:.80}")
    return float(value)


def _place(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value <= DEEP:
        raise InvalidEvent(f"{name}: a place up to {DEEP} is required, got {value!r:.80}")
    return value


def _texts(values: Any, name: str, rule: Callable[[str], str] = str) -> tuple[str, ...]:
    if type(values) is not list:
        raise InvalidEvent(f"{name}: a list of strings is required, got {values!r:.80}")
    return tuple(_known_text(value, name, rule) for value in values)


# channels, categories and creators are few; what is refused is not kept
_known_text = lru_cache(maxsize=1 << 12)(parse_text)


@dataclass(frozen=True, slots=True)
class Exposure:
    """The arm of one experiment that a list was made under, and the probability with which it was assigned."""

    arm: str
    propensity: float


def exposures_text(exposures: Mapping[str, Exposure]) -> str:
    """`Impression.arm` of the exposures by experiment.

    >>> exposures_text({"rerank": Exposure("dpp", 0.5), "recall": Exposure("wide", 0.25)})
    'rerank:dpp@0.5|recall:wide@0.25'
    """
    return "|".join(f"{name}:{e.arm}@{e.propensity:.6g}" for name, e in exposures.items())


def parse_exposures(text: str) -> dict[str, Exposure]:
    """Experiment → exposure: the inverse of `exposures_text`.

    >>> parse_exposures("rerank:dpp@0.5|recall:wide@0.25")["recall"]
    Exposure(arm='wide', propensity=0.25)

    Raises:
        ValueError: the text has another form, or a propensity outside (0, 1].
    """
    found = {}
    for part in text.split("|") if text else ():
        label, _, propensity = part.partition("@")
        experiment, _, arm = label.partition(":")
        if not experiment or not arm:
            raise ValueError(f"{text[:80]!r} is not `experiment:arm@propensity`")
        found[experiment] = Exposure(arm, float(propensity))
        if not 0 < found[experiment].propensity <= 1:
            raise ValueError(f"{text[:80]!r} has a propensity outside (0, 1]")
    return found


def impression_events(impression: Impression) -> list[Event]:
    """One impression event per item, with ids derived from the request: expanding twice gives the same ids. So does a
    request that is answered twice, because its client saw no response, if its id carries a time."""
    made_ms = made_ms_of(impression.request_id) or impression.time_ms
    request = (impression.request_id, impression.user_id)
    return [
        Event(
            event_id=derived_id(made_ms, *request, item.position, item.item_id),
            type=EventType.IMPRESSION,
            user_id=impression.user_id,
            item_id=item.item_id,
            event_time_ms=impression.time_ms,
            request_id=impression.request_id,
            position=item.position,
            value=NARROWED if item.position >= impression.narrowed_from else None,
            context=item_context(impression.context, item.categories, item.creator),
        )
        for item in impression.items
    ]


def made_ms_of(request_id: str) -> int:
    """The time in a request id that begins with a UUIDv7; 0 for any other id, which a client may use many times."""
    try:
        id_ = UUID(request_id[:36])
    except ValueError:
        return 0
    return id_.int >> 80 if id_.version == 7 else 0
