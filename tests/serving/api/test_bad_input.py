"""Whatever is sent: an answer below 500, as problem+json, and nothing that breaks the contract reaches the log.

Expired and forged cursors are in test_paging, replayed idempotency keys in test_idempotency, wrong keys in
test_security, requests made from the OpenAPI document in test_openapi_fuzz.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.contracts.events import EVENT_FIELDS, MAX_TIME_MS, parse_event
from recsys.contracts.types import EventType, Topic
from recsys.native import Native
from tests.serving.conftest import Api, open_api

POSTS = ("/v1/recommendations", "/v1/recommendations/batch", "/v1/rank", "/v1/events", "/v1/items")
TEN_MB = 10 << 20

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
near_events = st.fixed_dictionaries(
    {
        "type": st.sampled_from([*EventType, "stare"]) | json_values,
        "user_id": st.text(max_size=140) | json_values,
        "item_id": st.just("item-001") | json_values,
    },
    optional={name: json_values for name in EVENT_FIELDS if name not in ("type", "user_id", "item_id")},
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One API for all examples."""
    api = open_api(tmp_path_factory.mktemp("bad-input"))
    yield api
    api.client.__exit__(None, None, None)


def is_told(response: Any, *statuses: int) -> None:
    assert response.status_code in statuses, response.text[:200]
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"]


@pytest.mark.parametrize("path", POSTS)
def test_ten_megabytes_are_refused_before_they_are_read(shared: Api, path: str) -> None:
    is_told(shared.client.post(path, content=b" " * TEN_MB), 413)
    pieces = (b" " * 65_536 for _ in range(TEN_MB // 65_536))
    is_told(shared.client.post(path, content=pieces), 413)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"\xff\xfe\xfd",
        b"nonsense",
        b"null",
        b"17",
        b"[]",
        b"[" * 100_000,
        b'{"user_id":' * 50_000,
        b'{"events":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"user_id": NaN, "item_id": Infinity, "type": -Infinity}',
        b'{"user_id": 1e999}',
        b'{"user_id": "\\ud800"}',
        b'{"user_id": "u", "user_id": ["v"]}',
        b'{"__proto__": {}, "user_id": {"$ne": null}}',
    ],
    ids=lambda body: repr(body[:24]) if isinstance(body, bytes) else str(body),
)
def test_bodies_that_are_no_request(shared: Api, path: str, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = shared.client.post(path, content=body, headers=headers)
    if (
        path == "/v1/events" and response.status_code == 202
    ):  # a batch whose one event is rejected with the reason
        assert response.json()["accepted"] == 0
    else:
        is_told(response, 400, 413, 422)


@pytest.mark.slow
@given(body=st.one_of(near_events, json_values, st.fixed_dictionaries({"events": st.lists(near_events)})))
@settings(max_examples=300, suppress_health_check=list(HealthCheck))
def test_fuzzed_event_bodies(shared: Api, body: Any) -> None:
    taken = len(shared.sink.taken)
    response = shared.client.post("/v1/events", content=json.dumps(body).encode())
    assert response.status_code in (202, 400, 422)
    accepted = response.json()["accepted"] if response.status_code == 202 else 0
    logged = shared.logged(Topic.EVENTS)
    assert len(shared.sink.taken) == taken + accepted
    for raw in logged[len(logged) - accepted :]:
        parse_event(raw)


@given(body=json_values, path=st.sampled_from(POSTS))
@settings(max_examples=200, suppress_health_check=list(HealthCheck))
def test_fuzzed_bodies_of_every_route(shared: Api, body: Any, path: str) -> None:
    response = shared.client.post(path, content=json.dumps(body).encode())
    assert response.status_code < 500


def test_ids_that_nobody_knows_are_no_errors_where_that_has_a_meaning(shared: Api) -> None:
    assert shared.client.get("/v1/users/nobody").json()["known"] is False
    assert shared.client.delete("/v1/users/nobody").status_code == 204
    assert shared.client.delete("/v1/items/nothing").status_code == 204
    assert shared.list_of("nobody", exclude=["nothing"])
    is_told(shared.client.get("/v1/items/nothing/similar"), 404)
    is_told(shared.client.post("/v1/bundles/nothing/activate"), 404)


@pytest.mark.parametrize(
    "path", ["/v1/items/%00/similar", "/v1/users/%0a", "/v1/users/%2E%2E", "/v1/users/" + "x" * 200]
)
def test_ids_in_paths_that_are_no_ids(shared: Api, path: str) -> None:
    is_told(shared.client.get(path), 404, 422)


@pytest.mark.parametrize("blank", ["\u202e", "\u2028", "\ufdd0"])
def test_what_worker_and_archiver_would_refuse_is_not_accepted(shared: Api, blank: str) -> None:
    def changes() -> list[Any]:
        return shared.logged(Topic.ITEMS) + shared.logged(Topic.USERS)

    id_, client, before = f"a{blank}b", shared.client, changes()
    for item in (
        {"item_id": id_},
        {"item_id": "ok", "categories": [id_]},
        {"item_id": "ok", "creator": id_},
        {"item_id": "ok", "created_ms": MAX_TIME_MS},
    ):
        is_told(client.post("/v1/items", json=item), 422)
        is_told(client.post("/v1/items", json={"items": [{"item_id": "ok"}, item]}), 422)
    is_told(client.post("/v1/users", json={"user_id": id_}), 422)
    is_told(client.put(f"/v1/users/{id_}", json={"attributes": {}}), 422)
    is_told(client.delete(f"/v1/users/{id_}"), 422)
    is_told(client.delete(f"/v1/items/{id_}"), 422)
    is_told(client.post("/v1/recommendations", json={"user_id": id_}), 422)
    is_told(client.post("/v1/recommendations/batch", json={"requests": [{"user_id": id_}]}), 422)
    is_told(client.post("/v1/recommendations", json={"user_id": "u", "exclude": [id_]}), 422)
    is_told(client.post("/v1/rank", json={"user_id": id_, "items": ["item-001"]}), 422)
    is_told(client.post("/v1/rank", json={"user_id": "u", "items": [id_]}), 422)
    is_told(client.post("/v1/events", json=shared.event("item-001", id_)), 422)
    assert changes() == before
    assert dict(shared.store.inner.catalogue(["ok", id_])) == {}


def test_a_required_stage_that_fails_is_named_and_its_error_is_not(make_api: Callable[..., Api]) -> None:
    api = make_api(native=Native.OFF)  # the stages themselves

    def broken(query: object) -> object:
        raise ZeroDivisionError("a secret detail")

    for stage in api.services.host.require().pipeline.filters:
        object.__setattr__(stage, "remove", broken)
    response = api.recommend()
    is_told(response, 503)  # a required stage: nothing can be ranked
    assert "secret" not in response.text
    assert "seen" in response.json()["detail"]
