"""The impression log: what was shown, by which bundle and arm, and the feature values that were served.

Rankers train on these served values; recomputing them in Spark is the parity test. One record a request on the
`impressions` topic; the feature worker expands it into one impression event an item.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.errors import InvalidEvent
from recsys.events import CATEGORIES, CATEGORY_SEPARATOR, CREATOR, MAX_TIME_MS, Event, derived_id, identifier
from recsys.types import EventType


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
    """One answered request. `features` is (n_items, n_features) float32, columns in the bundle's order."""

    request_id: str
    user_id: str
    time_ms: int
    bundle: str
    fingerprint: str
    items: Sequence[ShownItem]
    features: NDArray[np.float32]
    arm: str = ""
    context: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the features travel as base64 of little-endian float32, row by row."""
        return {
            "request_id": self.request_id,
            "user_id": self.user_id,
            "time_ms": self.time_ms,
            "bundle": self.bundle,
            "fingerprint": self.fingerprint,
            "arm": self.arm,
            "context": self.context,
            "items": [
                {
                    "item_id": i.item_id,
                    "position": i.position,
                    "score": i.score,
                    "propensity": i.propensity,
                    "channels": list(i.channels),
                    "categories": list(i.categories),
                    "creator": i.creator,
                }
                for i in self.items
            ],
            "features": base64.b64encode(np.ascontiguousarray(self.features, dtype="<f4").tobytes()).decode(),
        }


def parse_impression(raw: Any) -> Impression:
    """The inverse of `Impression.to_dict`.

    Raises:
        InvalidEvent: a field is missing or the feature block does not fit the number of items.
    """
    try:
        items = tuple(
            ShownItem(
                item_id=identifier(i, "item_id"),
                position=int(i["position"]),
                score=float(i["score"]),
                propensity=float(i["propensity"]),
                channels=_texts(i["channels"]),
                categories=_texts(i["categories"]),
                creator=_texts([i.get("creator", "")])[0],
            )
            for i in raw["items"]
        )
        block = np.frombuffer(base64.b64decode(raw["features"]), dtype="<f4")
        return Impression(
            request_id=identifier(raw, "request_id"),
            user_id=identifier(raw, "user_id"),
            time_ms=_time(raw["time_ms"]),
            bundle=raw["bundle"],
            fingerprint=raw["fingerprint"],
            items=items,
            features=block.reshape(len(items), -1) if items else block.reshape(0, 0),
            arm=raw["arm"],
            context=dict(zip(_texts(raw["context"]), _texts(raw["context"].values()), strict=True)),
        )
    except (AttributeError, KeyError, TypeError, ValueError, InvalidEvent) as error:
        raise InvalidEvent(f"impression: {type(error).__name__}: {error}") from error


def _time(value: Any) -> int:
    time_ms = int(value)
    if not 0 < time_ms < MAX_TIME_MS:
        raise ValueError(f"time_ms: Unix milliseconds are required, got {value!r:.80}")
    return time_ms


def _texts(values: Iterable[Any]) -> tuple[str, ...]:
    """Anything else would surface where the list is expanded, and stop whoever reads the log."""
    texts = tuple(values)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"texts are required, got {texts!r:.80}")
    return texts


def impression_events(impression: Impression) -> list[Event]:
    """One impression event an item, with ids derived from the request: expanding twice gives the same ids."""
    return [
        Event(
            event_id=derived_id(impression.time_ms, impression.request_id, item.position, item.item_id),
            type=EventType.IMPRESSION,
            user_id=impression.user_id,
            item_id=item.item_id,
            event_time_ms=impression.time_ms,
            request_id=impression.request_id,
            position=item.position,
            context=impression.context | _item_context(item),
        )
        for item in impression.items
    ]


def _item_context(item: ShownItem) -> dict[str, str]:
    """What makes the event complete in itself: the item's categories and creator at that time."""
    context = {CATEGORIES: CATEGORY_SEPARATOR.join(item.categories), CREATOR: item.creator}
    return {name: text for name, text in context.items() if text}
