"""What the hot routes take and give: msgspec structs, decoded several times faster than by pydantic.

The OpenAPI document is made of them (`serving.api.openapi`). Lengths are limited here; the numbers that an operator may
change (`k`, batch sizes) are checked in the routes. The other routes use pydantic models (`serving.api.schemas`).
"""

from collections.abc import Callable
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from recsys.contracts.events import MAX_CONTEXT_ENTRIES, MAX_CONTEXT_LENGTH, SCHEMA_VERSION
from recsys.contracts.filters import MAX_LENGTH, Filter, filter_of
from recsys.contracts.languages import MAX_TAG_LENGTH, Languages, language_tag
from recsys.contracts.text import MAX_ID_LENGTH, id_text, name_text
from recsys.contracts.types import EventType
from serving.engine.device_list import DeviceList
from serving.engine.result_cache import Recommendation

MAX_CURSOR = 200_000  # a thousand ids of 128 characters, and the signature
_PAGES = "for lists in pages: empty for the first, then that of the answer before"
_NEXT_PAGE = "when one was sent: asks for the next page; absent at the end"
FILTER = 'which items may be shown, such as `price <= 20 and "Comedy" in categories` (docs/serving.md)'
_REGION = (
    "where the request comes from; the user's attribute `region` when absent. Items with regions need it"
)
_LANGUAGE = "of the titles, as a BCP 47 tag such as `de` or `en-GB` (docs/serving.md)"
_INELIGIBLE = "candidates that may not be shown now: id → upcoming, unavailable, region or filter"
_FUNNEL = "with `?explain=true`: stages, candidates, removed items"
_EDGE = (
    "with `edge`: the candidates as a device reranks them; absent if the bundle has no model for devices, or ranking"
    " failed"
)
NAME_SCHEMA: dict[str, Any] = {
    "type": "string",
    "maxLength": MAX_ID_LENGTH,
    "pattern": r"^[^\x00-\x1f\x7f]*$",
}
ID_SCHEMA = NAME_SCHEMA | {"minLength": 1}

Id = Annotated[str, Meta(extra_json_schema=ID_SCHEMA)]  # checked by `id_text`
Text = Annotated[str, Meta(max_length=MAX_CONTEXT_LENGTH // 2)]
Context = Annotated[dict[Text, Text], Meta(max_length=MAX_CONTEXT_ENTRIES)]


def _checked(rule: Callable[[str], str], raw: str, name: str) -> str:
    """Raises `ValueError`: the text breaks the rule; the message begins with its name."""
    try:
        return rule(raw)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


class Request(Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of what clients send: unknown fields are refused, a misspelt one must not be ignored."""


class UserRequest(Request, kw_only=True):
    """Base of requests for one user."""

    user_id: Id
    filter: Annotated[str, Meta(max_length=MAX_LENGTH, description=FILTER)] = ""
    region: Annotated[str, Meta(max_length=MAX_ID_LENGTH, description=_REGION)] = ""
    language: Annotated[str, Meta(max_length=MAX_TAG_LENGTH, description=_LANGUAGE)] = ""

    def __post_init__(self) -> None:
        """As in events: what is shown to the user is logged under this id, and read with the events' rules."""
        self.user_id = _checked(id_text, self.user_id, "user_id")
        self.region = _checked(name_text, self.region, "region")
        if self.language:
            self.language = _checked(language_tag, self.language, "language")

    @property
    def languages(self) -> Languages:
        return (self.language,) if self.language else ()

    @property
    def parsed_filter(self) -> Filter | None:
        """Raises `InvalidFilter`: it is no expression."""
        return filter_of(self.filter)


class RecommendationRequest(UserRequest):
    """Ask for a list for one user."""

    k: Annotated[int, Meta(ge=1, description="items wanted; the API's default when absent")] | None = None
    context: Annotated[Context, Meta(description="device, page, …; logged with the impression")] = {}
    exclude: Annotated[
        list[Id], Meta(max_length=1_000, description="items that must not be in the list")
    ] = []
    allow_seen: Annotated[bool, Meta(description="items that the user knows may be in the list")] = False
    cursor: Annotated[str, Meta(max_length=MAX_CURSOR, description=_PAGES)] | None = None
    edge: Annotated[bool, Meta(description="also send what a device needs to rerank (docs/device.md)")] = (
        False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.exclude = [_checked(id_text, item_id, "exclude") for item_id in self.exclude]


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
    cursor: Annotated[str | UnsetType, Meta(description=_NEXT_PAGE)] = UNSET
    funnel: Annotated[dict[str, Any] | UnsetType, Meta(description=_FUNNEL)] = UNSET
    edge: Annotated[DeviceList | UnsetType, Meta(description=_EDGE)] = UNSET


class RecommendationBatch(Request):
    """Many lists in one request, each answered or refused on its own."""

    requests: Annotated[list[RecommendationRequest], Meta(min_length=1)]


class BatchAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of a batch: `status` is what it would have got alone, with either the answer or the reason."""

    status: int
    answer: Recommendations | UnsetType = UNSET
    detail: str = ""


class BatchAnswers(Struct, frozen=True, kw_only=True):
    """In the order of the requests."""

    answers: list[BatchAnswer]


class RankRequest(UserRequest, kw_only=True):
    """Candidates of the caller's own, to be ranked for one user."""

    items: Annotated[
        list[Id], Meta(min_length=1, max_length=1_000, description="the candidates, in any order")
    ]
    context: Annotated[Context, Meta(description="device, page, …")] = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.items = [_checked(id_text, item_id, "items") for item_id in self.items]


class RankedItem(Struct, frozen=True, kw_only=True):
    """One candidate, the best first."""

    item_id: str
    score: float
    scores: Annotated[
        dict[str, float], Meta(description="by head: click, conversion given a click, like, log1p seconds")
    ]
    title: Annotated[str | UnsetType, Meta(description="where the request names a language")] = UNSET


class Ranking(Struct, frozen=True, kw_only=True):
    """All candidates that may be shown, ordered. Without the ranker (`degraded`) in the order sent."""

    request_id: str
    user_id: str
    bundle: str
    arms: Annotated[dict[str, str], Meta(description="experiment → the arm that this user is in")]
    items: list[RankedItem]
    unknown: Annotated[list[str], Meta(description="candidates that are not in the catalogue")]
    ineligible: Annotated[dict[str, list[str]], Meta(description=_INELIGIBLE)]
    degraded: list[str]
    ms: Annotated[float, Meta(description="milliseconds inside the API")]


class EventRequest(Request):
    """One event. `event_id` and `event_time_ms` are filled in when absent; send an id to make retries safe."""

    type: EventType
    user_id: Id
    item_id: Id
    event_id: Id | None = None
    event_time_ms: Annotated[int, Meta(gt=0, description="Unix milliseconds, when it happened")] | None = None
    request_id: Annotated[Id, Meta(description="of the answer that showed the item")] | None = None
    token: Annotated[str, Meta(description="of the item in that answer, where it has one")] | None = None
    position: Annotated[int, Meta(ge=0, lt=1_000_000)] | None = None
    value: (
        Annotated[float, Meta(description="dwell: milliseconds; purchase: price; rating: 1 to 5 stars")]
        | None
    ) = None
    context: Context = {}
    schema_version: Annotated[int, Meta(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)] = SCHEMA_VERSION


class EventBatch(Request):
    """Many events; each is judged on its own."""

    events: list[EventRequest]


class EventResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one event of the request: `accepted`, or `rejected` with the reason. An accepted one has a reason
    where it does not count as its client meant."""

    status: str
    event_id: str = ""
    reason: str = ""


class EventResults(Struct, frozen=True, kw_only=True):
    """In the order of the request."""

    accepted: int
    rejected: int
    results: list[EventResult]
