"""What both clients share: the requests, when they are tried again, and how answers are read."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from recsys.client.models import ApiError, BatchAnswer, EventResults, Ranking, Recommendations
from recsys.contracts.errors import Unavailable
from recsys.contracts.events import new_id
from recsys.contracts.types import Item, User

RETRIED = frozenset({429, 502, 503, 504})


@dataclass(frozen=True)
class Retry:
    """Up to `attempts` tries; before the n-th again, up to `first_s` · 2ⁿ seconds but never more than `longest_s`."""

    attempts: int = 4
    first_s: float = 0.1
    longest_s: float = 5.0

    def wait_s(self, attempt: int, response: httpx.Response | None, jitter: float) -> float:
        """Seconds to wait after the `attempt`-th failure (from 0). `jitter` in [0, 1)."""
        asked = response.headers.get("retry-after", "") if response is not None else ""
        if asked.isdigit():
            return min(float(asked), self.longest_s)
        return float(min(self.first_s * 2**attempt, self.longest_s) * (0.5 + jitter / 2))


@dataclass(frozen=True)
class Call:
    """One request and what its answer is decoded to."""

    method: str
    path: str
    kind: Any = None
    body: Any = None
    params: Mapping[str, str] | None = None
    status: frozenset[int] = frozenset()  # answers that are no errors beside 2xx
    once: bool = False  # a late retry must not do it again: it goes under an idempotency key


class Calls:
    """What both clients can ask for; they differ in how they wait."""

    @staticmethod
    def event(kind: str, user_id: str, item_id: str, **fields: Any) -> dict[str, Any]:
        """An event of now with an id, so that sending it twice counts once. `fields`: value, position, …"""
        return _identified({"type": kind, "user_id": user_id, "item_id": item_id, **fields})

    @staticmethod
    def question(
        user_id: str,
        k: int | None = None,
        context: Mapping[str, str] = {},
        exclude: Iterable[str] = (),
        cursor: str | None = None,
    ) -> dict[str, Any]:
        """One request of a batch. `cursor`: for pages, empty for the first."""
        body: dict[str, Any] = {"user_id": user_id, "context": dict(context), "exclude": list(exclude)}
        return body | {name: value for name, value in (("k", k), ("cursor", cursor)) if value is not None}

    @staticmethod
    def recommend_call(body: Mapping[str, Any], explain: bool = False) -> Call:
        params = {"explain": "true"} if explain else None
        return Call("POST", "/v1/recommendations", Recommendations, body, params)

    @staticmethod
    def batch_call(questions: Sequence[Mapping[str, Any]]) -> Call:
        return Call(
            "POST", "/v1/recommendations/batch", dict[str, list[BatchAnswer]], {"requests": questions}
        )

    @staticmethod
    def rank_call(user_id: str, items: Iterable[str], context: Mapping[str, str]) -> Call:
        body = {"user_id": user_id, "items": list(items), "context": dict(context)}
        return Call("POST", "/v1/rank", Ranking, body)

    @staticmethod
    def send_call(events: Sequence[Mapping[str, Any]]) -> Call:
        body = {"events": [_identified(event) for event in events]}
        return Call("POST", "/v1/events", EventResults, body)

    @staticmethod
    def similar_call(item_id: str, k: int) -> Call:
        return Call(
            "GET", f"/v1/items/{quote(item_id, safe='')}/similar", dict[str, Any], params={"k": str(k)}
        )

    @staticmethod
    def put_items_call(items: Sequence[Item]) -> Call:
        body = {"items": [msgspec.to_builtins(item) for item in items]}
        return Call("POST", "/v1/items", dict[str, Any], body, once=True)

    @staticmethod
    def put_users_call(users: Sequence[User]) -> Call:
        body = {"users": [msgspec.to_builtins(user) for user in users]}
        return Call("POST", "/v1/users", dict[str, Any], body, once=True)

    @staticmethod
    def put_user_call(user: User) -> Call:
        body = {"attributes": dict(user.attributes)}
        return Calls.on_call("PUT", "users", user.user_id, body=body, once=True)

    @staticmethod
    def on_call(
        method: str, *path: str, kind: Any = dict[str, Any], body: Any = None, once: bool = False
    ) -> Call:
        return Call(method, "/v1/" + "/".join(quote(part, safe="") for part in path), kind, body, once=once)


def _identified(event: Mapping[str, Any]) -> dict[str, Any]:
    """With id and time: a second try must be the same event, not one a moment later."""
    return {"event_id": new_id(), "event_time_ms": time.time_ns() // 1_000_000, **event}


def key_header(api_key: str) -> dict[str, str]:
    return {"x-api-key": api_key} if api_key else {}


def build(http: httpx.Client | httpx.AsyncClient, call: Call) -> httpx.Request:
    """One request for all tries: its id is the same on each."""
    content = None if call.body is None else msgspec.json.encode(call.body)
    headers = {"x-request-id": new_id()} | ({"content-type": "application/json"} if content else {})
    if call.once:
        headers["idempotency-key"] = headers["x-request-id"]
    return http.build_request(call.method, call.path, content=content, params=call.params, headers=headers)


def worth_a_retry(response: httpx.Response, call: Call) -> bool:
    return response.status_code in RETRIED - call.status


def result(response: httpx.Response, call: Call) -> Any:
    if not response.is_success and response.status_code not in call.status:
        raise refusal(response)
    return None if call.kind is None else msgspec.json.decode(response.content, type=call.kind)


def refusal(response: httpx.Response) -> ApiError:
    try:
        problem = msgspec.json.decode(response.content, type=dict[str, Any])
    except msgspec.DecodeError:
        problem = {"detail": response.text[:200]}
    return ApiError(response.status_code, str(problem.get("detail", "")), str(problem.get("request_id", "")))


def gave_up(request: httpx.Request, response: httpx.Response | None, failure: str) -> Unavailable:
    why = failure if response is None else str(refusal(response))
    return Unavailable(f"{request.method} {request.url}: no answer after several tries: {why}")
