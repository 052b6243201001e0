"""Items, users, bundles, health, and the edge that all requests pass."""

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from recsys.bundle import current_version
from recsys.contracts.changes import parse_item_change, parse_user_change
from recsys.contracts.errors import Unavailable
from recsys.contracts.merges import UserMerge
from recsys.contracts.types import MS_PER_MINUTE, Topic
from recsys.lake.forget import forgotten_users, user_digest
from serving.api import schemas
from serving.api.security import new_key
from serving.settings import Scope
from streaming.worker.metrics import WorkerMetrics
from tests.bundles import tiny_items, write_tiny_bundle
from tests.serving.conftest import NOW_MS, Api, click
from tests.serving.waiting import eventually


def test_similar_items_are_the_neighbours_of_the_bundle(api: Api) -> None:
    answer = api.client.get("/v1/items/item-003/similar?k=4").json()
    assert answer["item_id"] == "item-003"
    assert len(answer["items"]) == 4
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert "item-003" not in [item["item_id"] for item in answer["items"]]


def test_similar_items_of_an_unknown_item_are_404(api: Api) -> None:
    response = api.client.get("/v1/items/nothing/similar")
    assert response.status_code == 404
    assert "POST /v1/items" in response.json()["detail"]
    assert api.client.get("/v1/items/item-001/similar?k=0").status_code == 422


def test_items_are_stored_one_or_many(api: Api) -> None:
    assert api.client.post("/v1/items", json={"item_id": "new"}).json() == {"stored": 1}
    many = {"items": [{"item_id": "a", "categories": ["x"], "created_ms": 5}, {"item_id": "b", "title": "B"}]}
    assert api.client.post("/v1/items", json=many).json() == {"stored": 2}
    stored = dict(api.store.catalogue())
    assert set(stored) == {"new", "a", "b"}
    assert (stored["a"].categories, stored["a"].created_ms) == (("x",), 5)
    assert api.client.delete("/v1/items/a").status_code == 204
    assert {i for i, item in api.store.catalogue() if item} == {"new", "b"}
    logged = [parse_item_change(raw) for raw in api.logged(Topic.ITEMS)]
    assert [(change.item_id, change.item is None) for change in logged] == [
        ("new", False),
        ("a", False),
        ("b", False),
        ("a", True),
    ]
    assert logged[1].item == stored["a"]


def test_items_are_accepted_while_redis_is_away_and_refused_when_they_cannot_be_kept(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.store.up = False
    assert api.client.post("/v1/items", json={"item_id": "new"}).status_code == 202
    assert api.client.delete("/v1/items/old").status_code == 204
    api.store.up = True
    assert dict(api.store.catalogue()) == {}  # the feature worker will do it
    assert [change["changed_ms"] for change in api.logged(Topic.ITEMS)] == [NOW_MS] * 2

    def full(messages: object) -> None:
        raise Unavailable("the spool is full")

    monkeypatch.setattr(api.services.outboxes.events, "put", full)
    assert api.client.post("/v1/items", json={"item_id": "lost"}).status_code == 503
    assert dict(api.store.catalogue()) == {}


@pytest.mark.parametrize(
    "body",
    [{}, {"item_id": ""}, {"item_id": "a", "categories": ["x|y"]}, {"items": []}, {"item_id": "a", "b": 1}],
)
def test_bad_items_are_422(api: Api, body: dict[str, object]) -> None:
    assert api.client.post("/v1/items", json=body).status_code == 422


def test_a_user_has_a_history_and_can_be_forgotten(api: Api) -> None:
    assert api.client.get("/v1/users/u1").json()["known"] is False
    api.apply([click("item-003", at=1), click("item-004", at=2)])
    user = api.client.get("/v1/users/u1").json()
    assert user["known"] is True
    assert [(v["item_id"], v["title"]) for v in user["history"]] == [
        ("item-004", "Item 4"),
        ("item-003", "Item 3"),
    ]
    assert user["seen"] == 2
    assert api.client.delete("/v1/users/u1").status_code == 204
    assert forgotten_users(api.services.settings.lake) == {user_digest("u1"): NOW_MS + 5 * MS_PER_MINUTE}
    assert api.client.get("/v1/users/u1").json()["known"] is False
    assert api.client.delete("/v1/users/u1").status_code == 204


def test_users_attributes_are_kept_for_the_log_and_read_by_the_next_request(
    make_api: Callable[..., Api],
) -> None:
    api = make_api(result_cache_ms=0)

    def put(**attributes: str) -> None:
        response = api.client.put("/v1/users/u1", json={"attributes": attributes})
        assert (response.status_code, response.json()) == (202, {"stored": 1})

    put(age="31", shoe="44")
    assert api.client.get("/v1/users/u1").json()["attributes"] == {"age": "31", "shoe": "44"}
    assert api.client.get("/v1/users/u1").json()["known"] is False  # has done nothing yet
    many = {"users": [{"user_id": "u1", "attributes": {}}, {"user_id": "u2", "attributes": {"age": "5"}}]}
    assert api.client.post("/v1/users", json=many).json() == {"stored": 2}
    assert api.client.get("/v1/users/u1").json()["attributes"] == {}
    assert api.client.delete("/v1/users/u2").status_code == 204
    assert api.client.get("/v1/users/u2").json()["attributes"] is None
    *puts, tombstone = api.logged(Topic.USERS)
    assert not tombstone
    assert api.sink.taken[-1].key == "u2"
    changes = [parse_user_change(raw) for raw in puts]
    assert [(c.user_id, c.user and dict(c.user.attributes)) for c in changes] == [
        ("u1", {"age": "31", "shoe": "44"}),
        ("u1", {}),
        ("u2", {"age": "5"}),
    ]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"attributes": {"age": 31}}, 422),
        ({"attributes": {str(n): "" for n in range(99)}}, 422),
        ({"attributes": {}, "user_id": "other"}, 422),
        ({"age": "31"}, 422),
    ],
)
def test_bad_attributes_are_422(api: Api, body: object, status: int) -> None:
    assert api.client.put("/v1/users/u1", json=body).status_code == status


def test_many_users_are_limited_and_a_key_makes_one_effect(make_api: Callable[..., Api]) -> None:
    api = make_api(max_batch=2)
    users = [{"user_id": f"u{n}", "attributes": {}} for n in range(3)]
    assert api.client.post("/v1/users", json={"users": users}).status_code == 413
    for _ in range(2):
        response = api.client.put(
            "/v1/users/u1", json={"attributes": {"age": "1"}}, headers={"idempotency-key": "k"}
        )
    assert response.headers["idempotency-replayed"] == "true"
    assert len(api.logged(Topic.USERS)) == 1
    other = api.client.put(
        "/v1/users/u2", json={"attributes": {"age": "1"}}, headers={"idempotency-key": "k"}
    )
    assert other.status_code == 422


def test_a_visitor_who_logs_in_has_one_history(make_api: Callable[..., Api]) -> None:
    api = make_api(result_cache_ms=60_000)

    def shown() -> set[str]:
        answer = api.client.post("/v1/recommendations", json={"user_id": "u1", "k": 50}).json()
        return {line["item_id"] for line in answer["items"]}

    api.apply([click("item-003"), click("item-004", "anon")])
    assert "item-004" in shown()
    for _ in range(2):
        merged = api.client.post("/v1/users/u1/merge", json={"from": "anon"})
        assert (merged.status_code, merged.json()) == (202, {"stored": 1})
    assert "item-004" not in shown(), "seen before the log-in; the cached list is outdated"
    api.apply([click("item-005", "anon", at=NOW_MS - 1)])
    assert not {"item-004", "item-005"} & shown()
    user = api.client.get("/v1/users/u1").json()
    assert (user["merged"], user["seen"]) == (["anon"], 3)
    assert api.client.get("/v1/users/anon").json()["seen"] == 2
    assert api.logged(Topic.USERS) == [UserMerge("anon", "u1", NOW_MS).to_dict()], "once is enough"

    other = api.client.post("/v1/users/u2/merge", json={"from": "anon"})
    assert other.status_code == 409
    assert "new id" in other.json()["detail"]
    for n in range(15):
        assert api.client.post("/v1/users/u1/merge", json={"from": f"anon-{n}"}).status_code == 202
    assert api.client.post("/v1/users/u1/merge", json={"from": "one-more"}).status_code == 409
    assert api.client.post("/v1/users/u1/merge", json={"from": "u1"}).status_code == 422
    assert api.client.post("/v1/users/u1/merge", json={"merged": "a"}).status_code == 422

    assert api.client.delete("/v1/users/u1").status_code == 204
    assert api.client.get("/v1/users/anon").json()["known"] is False
    api.logged(Topic.USERS)
    buried = {record.key for record in api.sink.taken if record.topic == Topic.USERS and not record.value}
    assert {"u1", "anon", "anon-0", UserMerge("anon", "u1", 0).key} <= buried


def test_while_redis_is_away_a_merge_goes_to_the_log(api: Api) -> None:
    api.store.up = False
    assert api.client.post("/v1/users/u1/merge", json={"from": "anon"}).status_code == 202
    assert api.logged(Topic.USERS) == [UserMerge("anon", "u1", NOW_MS).to_dict()]


def test_routes_that_need_redis_say_so_when_it_is_away(api: Api) -> None:
    api.store.up = False
    for response in (
        api.client.get("/v1/users/u1"),
        api.client.delete("/v1/users/u1"),
    ):
        assert response.status_code == 503
        assert response.headers["retry-after"]
        assert "switched off" in response.json()["detail"]


def test_bundles_are_listed_and_switched(api: Api) -> None:
    bundles = api.services.settings.bundles
    write_tiny_bundle(bundles, "v2", seed=1, current=False)
    assert [(b["version"], b["active"]) for b in api.client.get("/v1/bundles").json()["bundles"]] == [
        ("v1", True),
        ("v2", False),
    ]
    response = api.client.post("/v1/bundles/v2/activate")
    assert response.json() == {"active": "v2", "previous": "v1"}
    assert api.recommend().json()["bundle"] == "v2"
    assert current_version(bundles) == "v2"


def test_a_bad_bundle_is_refused_and_the_old_one_answers(api: Api) -> None:
    bundles = api.services.settings.bundles
    write_tiny_bundle(bundles, "v2", seed=1, current=False)
    (bundles / "v2" / "ranker.onnx").write_bytes(b"not a model")
    response = api.client.post("/v1/bundles/v2/activate")
    assert response.status_code == 422
    assert "ranker.onnx" in response.json()["detail"]
    assert api.recommend().json()["bundle"] == "v1"
    listed = {b["version"]: b["refused"] for b in api.client.get("/v1/bundles").json()["bundles"]}
    assert "ranker.onnx" in listed["v2"]
    assert api.client.post("/v1/bundles/v9/activate").status_code == 404
    assert current_version(bundles) == "v1"


def test_a_newly_published_bundle_is_swapped_in_by_itself(api: Api) -> None:
    write_tiny_bundle(api.services.settings.bundles, "v2", seed=1)
    eventually(lambda: api.recommend().json()["bundle"] == "v2")


def test_health_and_readiness(api: Api, make_api: Callable[..., Api]) -> None:
    assert api.client.get("/healthz").json() == {"status": "ok"}
    api.store.report("worker", WorkerMetrics().report(0, 0, 1).encode(), 60_000)
    ready = api.client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["degraded"] == []
    assert ready.json()["ranker"] == ready.json()["user_tower"] == "onnxruntime"
    assert ready.json()["checks"] == schemas.Health.model_json_schema()["examples"][0]["checks"]
    api.store.up = False
    assert api.client.get("/readyz").json()["degraded"] == ["store"]
    assert api.client.get("/readyz").status_code == 200


def test_readiness_names_what_stops_the_stream(api: Api) -> None:
    def stream() -> str:
        return str(api.client.get("/readyz").json()["checks"]["stream"])

    assert "no feature worker reports" in stream()
    for name in ("a", "b"):
        report = WorkerMetrics().report(0, None, 1, ["events/1 stops at offset 5"])
        api.store.report(name, report.encode(), 60_000)
    assert stream() == "events/1 stops at offset 5"


def test_not_ready_without_a_bundle(make_api: Callable[..., Api]) -> None:
    ready = make_api(bundle=False).client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["ready"] is False


def test_metrics_count_requests_stages_and_degradations(api: Api) -> None:
    api.recommend()
    api.store.up = False
    api.recommend()
    text = api.client.get("/metrics").text
    assert 'recsys_http_requests_total{method="POST",route="/v1/recommendations",status="200"} 2.0' in text
    assert 'recsys_stage_seconds_count{stage="rank"} 1.0' in text  # one request in eight is timed
    assert 'recsys_degraded_total{reason="user_features"} 1.0' in text
    assert 'recsys_bundle_info{version="v1"} 1.0' in text
    assert "recsys_item_features_age_seconds" in text


def test_the_edge_adds_ids_and_security_headers_and_hides_what_went_wrong(api: Api) -> None:
    response = api.client.get("/healthz", headers={"x-request-id": "my-id.1"})
    assert response.headers["x-request-id"] == "my-id.1"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in response.headers["content-security-policy"]
    evil = api.client.get("/healthz", headers={"x-request-id": "<script>"})
    assert evil.headers["x-request-id"] != "<script>"
    assert "access-control-allow-origin" not in response.headers

    def broken(user_id: str) -> None:
        raise ZeroDivisionError("a secret detail")

    api.store.user = broken  # type: ignore[attr-defined]
    failed = api.client.get("/v1/users/u1")
    assert failed.status_code == 500
    assert failed.headers["content-type"] == "application/problem+json"
    assert "secret" not in failed.text
    assert failed.json()["request_id"] == failed.headers["x-request-id"]


def test_unknown_paths_and_methods_are_problems_too(api: Api) -> None:
    for response, status in ((api.client.get("/nothing"), 404), (api.client.get("/v1/recommendations"), 405)):
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"


def test_long_bodies_are_413_with_and_without_a_length(make_api: Callable[..., Api]) -> None:
    api = make_api(max_body_bytes=1_024)
    long = b'{"user_id": "' + b"x" * 2_000 + b'"}'
    assert api.client.post("/v1/recommendations", content=long).status_code == 413
    pieces = (long[i : i + 100] for i in range(0, len(long), 100))
    assert api.client.post("/v1/recommendations", content=pieces).status_code == 413
    assert api.recommend().status_code == 200


def test_with_keys_on_each_route_asks_for_its_scope(make_api: Callable[..., Api], tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    reader, writer = new_key(path, "reader", [Scope.READ]), new_key(path, "writer", [Scope.WRITE])
    admin = new_key(path, "admin", [Scope.ADMIN])
    api = make_api(api_keys=path)

    def status(method: str, url: str, key: str | None, body: object = None) -> int:
        headers = {"x-api-key": key} if key else {}
        return int(api.client.request(method, url, json=body, headers=headers).status_code)

    ask = ("POST", "/v1/recommendations", {"user_id": "u"})
    send = ("POST", "/v1/events", {"type": "click", "user_id": "u", "item_id": "item-001"})
    put: tuple[str, str, object] = ("PUT", "/v1/users/u", {"attributes": {}})
    swap = ("POST", "/v1/bundles/v1/activate", None)
    for (method, url, body), allowed in (
        (ask, {reader, admin}),
        (send, {writer, admin}),
        (put, {writer, admin}),
        (swap, {admin}),
    ):
        assert status(method, url, None, body) == 401
        for key in (reader, writer, admin):
            assert status(method, url, key, body) == (
                (202 if writer in allowed else 200) if key in allowed else 403
            )
    for url in ("/healthz", "/readyz", "/metrics", "/", "/openapi.json"):
        assert status("GET", url, None) == 200


def test_what_only_admins_may_is_written_down_whatever_the_log_level_is(
    make_api: Callable[..., Api], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys.json"
    key = new_key(path, "root", [Scope.ADMIN])
    api = make_api(api_keys=path, log_level="error")
    write_tiny_bundle(api.services.settings.bundles, "v2", seed=1, current=False)
    headers = {"x-api-key": key, "x-request-id": "r1"}
    for method, url in (
        ("POST", "/v1/bundles/v2/activate"),
        ("POST", "/v1/bundles/v1/shadow"),
        ("DELETE", "/v1/bundles/shadow"),
        ("POST", "/v1/bundles/v1/unload"),
        ("DELETE", "/v1/users/somebody"),
    ):
        assert api.client.request(method, url, headers=headers).status_code in (200, 204)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if '"audit"' in line]
    assert [line["action"] for line in lines] == [
        "activate bundle",
        "begin shadow",
        "end shadow",
        "unload bundle",
        "forget user",
    ]
    assert {(line["key"], line["request_id"]) for line in lines} == {("root", "r1")}
    assert "somebody" not in str(lines)
    assert key not in str(lines)


def test_an_id_may_have_a_slash(api: Api) -> None:
    name = "shop/42"
    encoded = quote(name, safe="")
    assert api.client.post("/v1/items", json={"item_id": name, "title": "t"}).status_code == 202
    eventually(lambda: api.client.get(f"/v1/items/{encoded}/similar").status_code == 200)
    assert api.client.delete(f"/v1/items/{encoded}").status_code == 204
    eventually(lambda: api.client.get(f"/v1/items/{encoded}/similar").status_code == 404)
    assert api.client.put(f"/v1/users/{encoded}", json={"attributes": {"age": "31"}}).status_code == 202
    assert api.client.get(f"/v1/users/{encoded}").json()["user_id"] == name
    assert api.client.delete(f"/v1/users/{encoded}").status_code == 204


def test_a_key_that_sends_too_much_gets_429_and_an_outage_of_the_counter_limits_nobody(
    make_api: Callable[..., Api], tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    key = new_key(path, "shop", [Scope.READ, Scope.WRITE])
    api = make_api(api_keys=path)
    left = {"shop": 4}

    def take(name: str, tokens: int) -> float:
        if tokens > left[name]:
            return 2.5
        left[name] -= tokens
        return 0.0

    api.services.access.take_tokens = take
    headers = {"x-api-key": key}
    batch = {"events": [api.event("item-001")] * 3}
    assert api.client.post("/v1/events", json=batch, headers=headers).status_code == 202
    assert api.client.post("/v1/recommendations", json={"user_id": "u"}, headers=headers).status_code == 200
    refused = api.client.post("/v1/recommendations", json={"user_id": "u"}, headers=headers)
    assert refused.status_code == 429
    left["shop"] = 5
    for body in ({"items": [{"item_id": "new", "title": "t"}] * 3}, {"users": [{"user_id": "u"}] * 3}):
        url = f"/v1/{next(iter(body))}"
        assert api.client.post(url, json=body, headers=headers).status_code == (
            202 if "items" in body else 429
        )
    assert left["shop"] == 2, "one for each item"
    left["shop"] = 0
    assert refused.headers["retry-after"] == "3"
    for url in ("/v1/items/item-001/similar", "/v1/users/u", "/v1/bundles"):
        assert api.client.get(url, headers=headers).status_code == 429
    assert api.client.get("/readyz").status_code == 200, "whoever looks after us is not limited"

    def broken(name: str, tokens: int) -> float:
        raise Unavailable("away")

    api.services.access.take_tokens = broken
    assert api.client.post("/v1/recommendations", json={"user_id": "u"}, headers=headers).status_code == 200


def test_the_openapi_document_has_every_route_with_examples(api: Api) -> None:
    document = api.client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    paths = document["paths"]
    for path in ("/v1/recommendations", "/v1/events"):
        content = paths[path]["post"]["requestBody"]["content"]["application/json"]
        assert content["examples"]
        for example in content["examples"].values():
            assert api.client.post(path, json=example["value"]).status_code in (200, 202)
    assert {"/v1/items", "/v1/items/{item_id}", "/v1/items/{item_id}/similar", "/v1/users/{user_id}"} <= set(
        paths
    )
    assert {"/v1/bundles", "/v1/bundles/{version}/activate", "/healthz", "/readyz", "/metrics"} <= set(paths)
    referenced = set(
        __import__("re").findall(r'"#/components/schemas/(\w+)"', str(document).replace("'", '"'))
    )
    assert referenced <= set(document["components"]["schemas"])


def test_examples_of_models_are_what_the_models_take(api: Api) -> None:
    shown = api.client.get("/openapi.json").json()["components"]["schemas"]
    for name in (
        "ItemEntry",
        "ItemEntries",
        "Stored",
        "SimilarItems",
        "UserSummary",
        "Problem",
        "Health",
    ):
        (example,) = shown[name]["examples"]
        getattr(schemas, name).model_validate(example)
    assert api.client.post("/v1/items", json=shown["ItemEntry"]["examples"][0]).status_code == 202


def test_the_page_is_served_with_its_own_files_only(api: Api) -> None:
    page = api.client.get("/")
    assert page.status_code == 200
    assert "text/html" in page.headers["content-type"]
    for name in ("app.js", "style.css"):
        assert f"/static/{name}" in page.text
        assert api.client.get(f"/static/{name}").status_code == 200
    assert "https://" not in page.text + api.client.get("/static/app.js").text


def test_the_tiny_catalogue_is_what_these_tests_think(api: Api) -> None:
    runtime = api.services.host.require()
    assert [runtime.catalogue.item(i) for i in range(len(runtime.catalogue))] == tiny_items()
