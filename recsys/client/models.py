"""What the API answers with. Fields that a newer API adds are ignored."""

from typing import Any

import msgspec

from recsys.contracts.errors import RecsysError


class ApiError(RecsysError):
    """The API refused the request; `detail` says why, `request_id` finds it in the server's log."""

    def __init__(self, status: int, detail: str, request_id: str) -> None:
        super().__init__(f"{status}: {detail} (request {request_id})")
        self.status = status
        self.detail = detail
        self.request_id = request_id


class RecommendedItem(msgspec.Struct, frozen=True):
    """One line of a list."""

    item_id: str
    score: float
    propensity: float = 1.0
    channels: tuple[str, ...] = ()
    title: str = ""
    categories: tuple[str, ...] = ()
    token: str | None = None  # belongs into the item's events, where the API gives one


class Recommendations(msgspec.Struct, frozen=True):
    """A list, the best item first. `degraded` names what could not do its work; `funnel` comes with `explain`."""

    request_id: str
    user_id: str
    bundle: str
    items: tuple[RecommendedItem, ...]
    degraded: tuple[str, ...]
    ms: float
    cached: bool = False
    cursor: str | None = None  # of a list in pages: where the next one begins; None at the end
    funnel: dict[str, Any] | None = None
    arms: dict[str, str] = msgspec.field(default_factory=dict)  # experiment → arm


class RankedItem(msgspec.Struct, frozen=True):
    """One of the caller's candidates; `scores` by head; `title` where the request names a language."""

    item_id: str
    score: float
    scores: dict[str, float] = {}
    title: str = ""


class Ranking(msgspec.Struct, frozen=True):
    """The caller's candidates, the best first; `unknown` are not in the catalogue, `ineligible` may not be shown now,
    for these reasons."""

    request_id: str
    user_id: str
    bundle: str
    items: tuple[RankedItem, ...]
    unknown: tuple[str, ...]
    degraded: tuple[str, ...]
    ms: float
    arms: dict[str, str] = {}  # experiment → the arm that this user is in
    ineligible: dict[str, tuple[str, ...]] = {}


class BatchAnswer(msgspec.Struct, frozen=True):
    """One of a batch: `answer`, or the `status` and `detail` of its refusal."""

    status: int
    answer: Recommendations | None = None
    detail: str = ""


class EventResult(msgspec.Struct, frozen=True):
    """`status`: accepted, or rejected with a `reason`. An accepted one has a reason if it does not count as meant."""

    status: str
    event_id: str = ""
    reason: str = ""


class EventResults(msgspec.Struct, frozen=True):
    """In the order of the events."""

    accepted: int
    rejected: int
    results: tuple[EventResult, ...]


class SimilarItem(msgspec.Struct, frozen=True):
    """A neighbour of an item."""

    item_id: str
    score: float
    title: str = ""
    categories: tuple[str, ...] = ()
