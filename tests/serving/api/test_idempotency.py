"""`Idempotency-Key`: a request that is sent again has one effect and gets the same answer."""

from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from infra.local.redis import RedisServer
from recsys.contracts.errors import Unavailable
from recsys.contracts.types import MS_PER_HOUR, Topic
from recsys.store.replays import MemoryReplays, RedisReplays, Replays
from recsys.store.token_bucket import RedisTokenBuckets
from serving.api.security import new_key
from serving.settings import Scope
from tests.serving.conftest import NOW_MS, Api

KEY = {"idempotency-key": "order-17"}


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def replays(request: pytest.FixtureRequest) -> Replays:
    if request.param == "memory":
        return MemoryReplays()
    return RedisReplays(request.getfixturevalue("redis_url"), 60, 5.0)


def test_what_was_kept_first_stays(replays: Replays) -> None:
    assert replays.get("a") is None
    replays.put("a", b"\x00first")
    replays.put("a", b"second")
    assert replays.get("a") == b"\x00first"
    assert replays.get("b") is None


def test_events_sent_again_get_the_same_answer_and_count_once(api: Api) -> None:
    batch = {"events": [api.event("item-001"), api.event("item-002"), api.event("item-001"), {"type": "x"}]}
    first = api.client.post("/v1/events", json=batch, headers=KEY)
    again = api.client.post("/v1/events", json=batch, headers=KEY)
    assert first.status_code == again.status_code == 202
    assert first.json() == again.json()
    ids = [result["event_id"] for result in first.json()["results"][:3]]
    assert len(set(ids)) == 3
    assert [e["event_id"] for e in api.logged(Topic.EVENTS)] == ids * 2
    api.apply_events()
    assert len(api.store.inner.user("u1").histories["seen"]) == 3


def test_events_sent_again_get_the_same_ids_when_the_store_is_away_and_in_another_process(
    make_api: Callable[..., Api],
) -> None:
    one, other = make_api(), make_api(bundle=False)
    first = one.client.post("/v1/events", json=one.event("item-001"), headers=KEY).json()
    one.store.up = False
    other.store.up = False
    assert one.client.post("/v1/events", json=one.event("item-001"), headers=KEY).json() == first
    assert other.client.post("/v1/events", json=one.event("item-001"), headers=KEY).json() == first


def test_events_sent_again_keep_the_time_of_the_first_attempt(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = iter(range(5))
    monkeypatch.setattr(api.services.idempotency, "now_ms", lambda: NOW_MS + next(hours) * MS_PER_HOUR)
    batch = {"events": [api.event("item-001"), api.event("item-002", event_time_ms=7)]}
    for headers in (KEY, KEY, {"idempotency-key": "another"}):
        assert api.client.post("/v1/events", json=batch, headers=headers).status_code == 202
    times = [e["event_time_ms"] for e in api.logged(Topic.EVENTS)]
    assert times[:4] == [NOW_MS, 7] * 2
    assert times[4] > NOW_MS
    api.services.idempotency.replays = Away()
    assert api.client.post("/v1/events", json=batch, headers=KEY).status_code == 202


def test_other_keys_other_bodies_and_other_callers_are_other_requests(
    make_api: Callable[..., Api], tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    shop, app = new_key(path, "shop", [Scope.WRITE]), new_key(path, "app", [Scope.WRITE])
    api = make_api(api_keys=path)

    def event_id(item: str, key: str, caller: str) -> str:
        headers = {"idempotency-key": key, "x-api-key": caller}
        response = api.client.post("/v1/events", json=api.event(item), headers=headers)
        return str(response.json()["results"][0]["event_id"])

    same = event_id("item-001", "a", shop)
    assert event_id("item-001", "a", shop) == same
    others = {
        event_id("item-001", "b", shop),
        event_id("item-002", "a", shop),
        event_id("item-001", "a", app),
    }
    assert len(others | {same}) == 4


def test_ids_that_the_client_gives_win(api: Api) -> None:
    response = api.client.post("/v1/events", json=api.event("item-001", event_id="mine"), headers=KEY)
    assert response.json()["results"][0]["event_id"] == "mine"


def test_a_late_retry_of_an_item_does_not_undo_what_came_after_it(api: Api) -> None:
    def title() -> str | None:
        entry = dict(api.store.inner.catalogue(["new"]))["new"]
        return entry.title if entry else None

    old, new = {"item_id": "new", "title": "old"}, {"item_id": "new", "title": "newer"}
    first = api.client.post("/v1/items", json=old, headers=KEY)
    assert (first.status_code, first.json()) == (202, {"stored": 1})
    assert "idempotency-replayed" not in first.headers
    assert api.client.post("/v1/items", json=new).status_code == 202
    again = api.client.post("/v1/items", json=old, headers=KEY)
    assert (again.status_code, again.json()) == (202, {"stored": 1})
    assert again.headers["idempotency-replayed"] == "true"
    assert title() == "newer"
    gone = {"idempotency-key": "delete-1"}
    assert api.client.delete("/v1/items/new", headers=gone).status_code == 204
    assert api.client.post("/v1/items", json=new).status_code == 202
    assert api.client.delete("/v1/items/new", headers=gone).status_code == 204
    assert title() == "newer"


def test_a_key_that_was_used_for_another_item_is_422(api: Api) -> None:
    assert api.client.post("/v1/items", json={"item_id": "a"}, headers=KEY).status_code == 202
    response = api.client.post("/v1/items", json={"item_id": "b"}, headers=KEY)
    assert response.status_code == 422
    assert "another request" in response.json()["detail"]
    assert dict(api.store.inner.catalogue(["b"])) == {}


def test_what_failed_is_not_remembered(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(messages: object) -> None:
        raise Unavailable("the spool is full")

    with monkeypatch.context() as patch:
        patch.setattr(api.services.outboxes.events, "put", full)
        assert api.client.post("/v1/items", json={"item_id": "a"}, headers=KEY).status_code == 503
    assert api.client.post("/v1/items", json={"item_id": "a"}, headers=KEY).status_code == 202
    assert "a" in dict(api.store.inner.catalogue(["a"]))


class Away(MemoryReplays):
    def put(self, key: str, value: bytes) -> None:
        raise Unavailable("away")


class FailsOnAnswers(MemoryReplays):
    """Redis goes away between the effect and its answer, once."""

    def __init__(self) -> None:
        super().__init__()
        self.failed = False

    def put(self, key: str, value: bytes) -> None:
        if not key.endswith("-began") and not self.failed:
            self.failed = True
            raise Unavailable("away")
        super().put(key, value)


def test_a_retry_after_a_lost_answer_does_not_undo_what_came_in_between(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(NOW_MS, NOW_MS + 10))
    monkeypatch.setattr(api.services.idempotency, "now_ms", lambda: next(clock))
    api.services.idempotency.replays = FailsOnAnswers()
    old, new = {"item_id": "new", "title": "old"}, {"item_id": "new", "title": "newer"}
    assert api.client.post("/v1/items", json=old, headers=KEY).status_code == 503
    assert api.client.post("/v1/items", json=new).status_code == 202
    again = api.client.post("/v1/items", json=old, headers=KEY)
    assert (again.status_code, again.json()) == (202, {"stored": 1})
    entry = dict(api.store.inner.catalogue(["new"]))["new"]
    assert entry is not None
    assert entry.title == "newer"
    other = api.client.post("/v1/items", json={"item_id": "b"}, headers=KEY)
    assert other.status_code == 422


@pytest.mark.redis
def test_a_full_redis_and_a_replica_are_away_not_broken() -> None:
    with RedisServer() as server, redis.Redis.from_url(server.url) as client:
        replays, buckets = RedisReplays(server.url, 60, 5.0), RedisTokenBuckets(server.url, 1.0, 5, 5.0)
        client.config_set("maxmemory", "1")
        client.config_set("maxmemory-policy", "noeviction")
        with pytest.raises(Unavailable, match="full"):
            replays.put("a", b"b")
        with pytest.raises(Unavailable, match="full"):
            buckets.take("a")
        client.config_set("maxmemory", "0")
        client.replicaof("127.0.0.1", "1")
        with pytest.raises(Unavailable, match="read-only replica"):
            replays.put("a", b"b")
        with pytest.raises(Unavailable, match="read-only replica"):
            buckets.take("a")


@pytest.mark.parametrize("key", ["x" * 129, "with blank", "ä".encode().decode("latin-1")])
def test_keys_that_are_no_keys_are_422(api: Api, key: str) -> None:
    headers = {"idempotency-key": key.encode("latin-1")}
    assert api.client.post("/v1/events", json=api.event("item-001"), headers=headers).status_code == 422
    assert api.client.post("/v1/items", json={"item_id": "a"}, headers=headers).status_code == 422
    assert api.logged(Topic.EVENTS) == []


def test_the_time_of_an_event_is_filled_in_as_ever(api: Api) -> None:
    api.client.post("/v1/events", json=api.event("item-001"), headers=KEY)
    assert api.logged(Topic.EVENTS)[0]["event_time_ms"] == NOW_MS
