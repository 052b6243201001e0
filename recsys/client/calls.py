"""The API's requests, each described once: the clients send them, blocking or awaited."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from recsys.client.models import BatchAnswer, EventResults, Ranking, Recommendations, SimilarItem
from recsys.contracts.changes import item_entry
from recsys.contracts.events import new_id
from recsys.contracts.types import Item, User

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and how its response is decoded."""

    method: str
    path: str
    decode: Callable[[bytes], T]
    body: Any = None
    params: Mapping[str, str] | None = None
    accepted: frozenset[int] = frozenset()  # statuses besides 2xx that are answers, not errors
    idempotent: bool = False  # send an idempotency key, so that a late retry is not a second change


def event(kind: str, user_id: str, item_id: str, **fields: Any) -> dict[str, Any]:
    """An event with the current time and an id, so that sending it twice counts once. `fields`: value, context, …"""
    return _identified({"type": kind, "user_id": user_id, "item_id": item_id, **fields})


def outcome(kind: str, answer: Recommendations, position: int, **fields: Any) -> dict[str, Any]:
    """The event of a user who acts on the item at a position of a list, from 0. See `event`."""
    item = answer.items[position]
    token = {"token": item.token} if item.token else {}
    shown = {"request_id": answer.request_id, "position": position, **token}
    return event(kind, answer.user_id, item.item_id, **shown, **fields)


def question(
    user_id: str,
    k: int | None = None,
    context: Mapping[str, str] = {},
    exclude: Iterable[str] = (),
    allow_seen: bool = False,
    cursor: str | None = None,
    filter: str = "",
    region: str = "",
    language: str = "",
) -> dict[str, Any]:
    """One request of a batch. `allow_seen`: also items that the user knows. `cursor`: that of the previous page; empty
    for the first page. `filter`: which items may be shown, such as 'price <= 20'. `region`: where the request comes
    from. `language`: of the titles, such as "de" or "en-GB"."""
    body: dict[str, Any] = {"user_id": user_id, "context": dict(context), "exclude": list(exclude)}
    body |= {"allow_seen": True} if allow_seen else {}
    body |= _given(filter=filter, region=region, language=language)
    return body | {name: value for name, value in (("k", k), ("cursor", cursor)) if value is not None}


def recommend(
    user_id: str,
    k: int | None = None,
    context: Mapping[str, str] = {},
    exclude: Iterable[str] = (),
    allow_seen: bool = False,
    explain: bool = False,
    filter: str = "",
    region: str = "",
    language: str = "",
) -> Call[Recommendations]:
    """Recommend items to a user. See `question`."""
    params = {"explain": "true"} if explain else None
    asked = question(
        user_id, k, context, exclude, allow_seen, filter=filter, region=region, language=language
    )
    return replace(_page(asked), params=params)


def pages(
    user_id: str,
    k: int | None = None,
    context: Mapping[str, str] = {},
    exclude: Iterable[str] = (),
    allow_seen: bool = False,
    filter: str = "",
    region: str = "",
    language: str = "",
) -> Call[Recommendations]:
    """Recommend items page by page, each item once, until none is left. Each page is a new request: what the user does
    between two pages changes the next one."""
    return _page(question(user_id, k, context, exclude, allow_seen, "", filter, region, language))


def page_after(call: Call[Recommendations], page: Recommendations) -> Call[Recommendations] | None:
    return None if page.cursor is None else _page({**call.body, "cursor": page.cursor})


def recommend_many(questions: Sequence[Mapping[str, Any]]) -> Call[list[BatchAnswer]]:
    """Answer each `question(…)`, in order; each may be refused on its own."""
    body = {"requests": questions}
    return Call("POST", "/v1/recommendations/batch", _field("answers", list[BatchAnswer]), body)


def rank(
    user_id: str,
    items: Iterable[str],
    context: Mapping[str, str] = {},
    filter: str = "",
    region: str = "",
    language: str = "",
) -> Call[Ranking]:
    """Order the caller's candidates by the ranker. With `language`, they have titles."""
    body = {"user_id": user_id, "items": list(items), "context": dict(context)}
    body |= _given(filter=filter, region=region, language=language)
    return Call("POST", "/v1/rank", _json(Ranking), body)


def send(events: Sequence[Mapping[str, Any]]) -> Call[EventResults]:
    """Send events (see `event`). Those without an id get one; each is accepted or rejected on its own."""
    return Call("POST", "/v1/events", _json(EventResults), {"events": [_identified(one) for one in events]})


def similar(
    item_id: str, k: int = 20, filter: str = "", region: str = "", language: str = ""
) -> Call[list[SimilarItem]]:
    """Neighbours of an item, nearest first."""
    decode = _field("items", list[SimilarItem])
    params = {"k": str(k), **_given(filter=filter, region=region, language=language)}
    return Call("GET", _path("items", item_id, "similar"), decode, params=params)


def put_items(items: Sequence[Item]) -> Call[None]:
    """Add or replace catalogue entries."""
    body = {"items": [item_entry(item) for item in items]}
    return Call("POST", "/v1/items", _ignore, body, idempotent=True)


def delete_item(item_id: str) -> Call[None]:
    """Remove an item from the catalogue and from every list."""
    return Call("DELETE", _path("items", item_id), _ignore, idempotent=True)


def user(user_id: str) -> Call[dict[str, Any]]:
    """The platform's state of a user."""
    return Call("GET", _path("users", user_id), _json(dict[str, Any]))


def put_user(user: User) -> Call[None]:
    """Replace a user's static attributes."""
    body = {"attributes": dict(user.attributes)}
    return Call("PUT", _path("users", user.user_id), _ignore, body, idempotent=True)


def put_users(users: Sequence[User]) -> Call[None]:
    """Replace the static attributes of several users."""
    body = {"users": [msgspec.to_builtins(user) for user in users]}
    return Call("POST", "/v1/users", _ignore, body, idempotent=True)


def merge_user(user_id: str, merged: str) -> Call[None]:
    """Let the history of another id, such as a visitor's before the log-in, belong to a user from now on."""
    return Call("POST", _path("users", user_id, "merge"), _ignore, {"from": merged}, idempotent=True)


def forget_user(user_id: str) -> Call[None]:
    """Delete the state of a user, and of the ids merged into it."""
    return Call("DELETE", _path("users", user_id), _ignore)


def bundles() -> Call[dict[str, Any]]:
    """Every bundle, and the active one."""
    return Call("GET", "/v1/bundles", _json(dict[str, Any]))


def activate(version: str) -> Call[None]:
    """Make a bundle the active one."""
    return Call("POST", _path("bundles", version, "activate"), _ignore)


def begin_shadow(version: str) -> Call[None]:
    """Mirror traffic to this bundle; its responses are discarded."""
    return Call("POST", _path("bundles", version, "shadow"), _ignore)


def end_shadow() -> Call[None]:
    """Stop mirroring traffic to the shadow bundle."""
    return Call("DELETE", "/v1/bundles/shadow", _ignore)


def shadow_report() -> Call[dict[str, Any]]:
    """How the shadow's lists differ from the served ones."""
    return Call("GET", "/v1/bundles/shadow", _json(dict[str, Any]))


def ready() -> Call[dict[str, Any]]:
    """Whether the API and its dependencies are ready; also answered while they are not."""
    return Call("GET", "/readyz", _json(dict[str, Any]), accepted=frozenset({503}))


def _given(**texts: str) -> dict[str, str]:
    return {name: text for name, text in texts.items() if text}


def _page(body: dict[str, Any]) -> Call[Recommendations]:
    return Call("POST", "/v1/recommendations", _json(Recommendations), body)


def _identified(event: Mapping[str, Any]) -> dict[str, Any]:
    # Assigned before the first attempt: a retry must send the same event.
    return {"event_id": new_id(), "event_time_ms": time.time_ns() // 1_000_000, **event}


def _path(*segments: str) -> str:
    return "/v1/" + "/".join(quote(segment, safe="") for segment in segments)


def _json(kind: type[T]) -> Callable[[bytes], T]:
    return msgspec.json.Decoder(kind).decode


def _field(name: str, kind: type[T]) -> Callable[[bytes], T]:
    return lambda content: msgspec.json.decode(content, type=dict[str, kind])[name]  # type: ignore[valid-type]


def _ignore(content: bytes) -> None:
    return None
