"""What the hot routes take and give: msgspec structs, decoded several times faster than by pydantic.

The OpenAPI document is made of them (`serving.openapi`). Lengths are limited here; the numbers that an operator may
change (`k`, batch sizes) are checked in the routes. The other routes use pydantic models (`serving.schemas`).
"""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType, field

from recsys.events import MAX_CONTEXT_ENTRIES, MAX_CONTEXT_LENGTH, MAX_ID_LENGTH, SCHEMA_VERSION
from recsys.types import EventType

PRINTABLE = r"^[^\x00-\x1f\x7f]+$"

Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_LENGTH, pattern=PRINTABLE)]
Text = Annotated[str, Meta(max_length=MAX_CONTEXT_LENGTH // 2)]
Context = Annotated[dict[Text, Text], Meta(max_length=MAX_CONTEXT_ENTRIES)]


class Request(Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of what clients send: unknown fields are refused, a misspelt one must not be ignored."""


class RecommendationRequest(Request):
    """Ask for a list for one user."""

    user_id: Id
    k: Annotated[int, Meta(ge=1, description="items wanted; the API's default when absent")] | None = None
    context: Annotated[Context, Meta(description="device, page, …; logged with the impression")] = field(
        default_factory=dict
    )
    exclude: Annotated[list[Id], Meta(max_length=1_000, description="items that must not be in the list")] = (
        field(default_factory=list)
    )


class Recommendation(Struct, frozen=True, kw_only=True):
    """One line of the list, the best first."""

    item_id: str
    score: float
    propensity: Annotated[float, Meta(description="probability that the policy shows it at this place")]
    channels: Annotated[list[str], Meta(description="recall channels that found it")]
    title: str
    categories: list[str]


class Recommendations(Struct, frozen=True, kw_only=True):
    """The answer. `degraded` names every part that could not do its work; empty when all is well."""

    request_id: str
    user_id: str
    bundle: str
    arms: Annotated[dict[str, str], Meta(description="experiment → the arm that this user is in")]
    items: list[Recommendation]
    degraded: list[str]
    cached: Annotated[
        bool, Meta(description="the list is a moment old: nothing the user did since changes it")
    ]
    ms: Annotated[float, Meta(description="milliseconds inside the API")]
    funnel: Annotated[
        dict[str, Any] | UnsetType,
        Meta(description="with `?explain=true`: stages, candidates, removed items"),
    ] = UNSET


class EventRequest(Request):
    """One event. `event_id` and `event_time_ms` are filled in when absent; send an id to make retries safe."""

    type: EventType
    user_id: Id
    item_id: Id
    event_id: Id | None = None
    event_time_ms: Annotated[int, Meta(gt=0, description="Unix milliseconds, when it happened")] | None = None
    request_id: Annotated[Id, Meta(description="of the answer that showed the item")] | None = None
    position: Annotated[int, Meta(ge=0, lt=1_000_000)] | None = None
    value: (
        Annotated[float, Meta(description="dwell: milliseconds; purchase: price; rating: stars")] | None
    ) = None
    context: Context = field(default_factory=dict)
    schema_version: Annotated[int, Meta(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)] = SCHEMA_VERSION


class EventBatch(Request):
    """Many events; each is judged on its own."""

    events: list[EventRequest]


class EventResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one event of the request: `accepted`, or `rejected` with the reason."""

    status: str
    event_id: str = ""
    reason: str = ""


class EventResults(Struct, frozen=True, kw_only=True):
    """In the order of the request."""

    accepted: int
    rejected: int
    results: list[EventResult]
