"""`POST /v1/events`: what is accepted reaches the log whatever happens; what is not is told why."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from recsys.contracts.event_log import partition_of
from recsys.contracts.events import EVENT_FIELDS, parse_event
from recsys.contracts.time_rules import TimeRules
from recsys.contracts.types import Topic
from serving.api.wire import EventRequest
from tests.serving.conftest import NOW_MS, Api, click
from tests.serving.waiting import eventually


def test_the_http_model_has_the_fields_of_the_event() -> None:
    assert set(EventRequest.__struct_fields__) == {*EVENT_FIELDS, "token"}  # which proves, and is not logged


def test_one_event_reaches_the_log_completed(api: Api) -> None:
    response = api.client.post("/v1/events", json=api.event("item-005", request_id="r1", position=2))
    assert response.status_code == 202
    (result,) = response.json()["results"]
    (raw,) = api.logged(Topic.EVENTS)
    event = parse_event(raw)
    assert event.event_id == result["event_id"]
    assert uuid.UUID(event.event_id).version == 7
    assert event.event_time_ms == NOW_MS
    assert (event.request_id, event.position) == ("r1", 2)
    assert event.context == {"categories": "category-1", "creator": "creator-5"}


def test_what_the_client_says_of_the_item_wins_over_the_catalogue(api: Api) -> None:
    sent = api.event(
        "item-005", context={"categories": "mine", "page": "home"}, event_id="e1", event_time_ms=7
    )
    assert api.client.post("/v1/events", json=sent).status_code == 202
    event = parse_event(api.logged(Topic.EVENTS)[0])
    assert event.context == {"categories": "mine", "creator": "creator-5", "page": "home"}
    assert (event.event_id, event.event_time_ms) == ("e1", 7)


@pytest.mark.parametrize("entries", [30, 31, 32])
def test_an_event_is_not_refused_for_what_the_server_adds(api: Api, entries: int) -> None:
    sent = {f"key-{n}": "" for n in range(entries)}
    assert api.client.post("/v1/events", json=api.event("item-005", context=sent)).status_code == 202
    added = {"categories": "category-1", "creator": "creator-5"}
    kept = dict([*added.items()][: 32 - entries])
    assert parse_event(api.logged(Topic.EVENTS)[0]).context == sent | kept


def test_what_the_worker_will_call_late_is_rejected_by_its_own_rule(api: Api) -> None:
    api.apply([click("item-001", "other", NOW_MS)])  # to partition 0
    late_ms = TimeRules().late_ms
    same = next(f"u{n}" for n in range(100) if partition_of(f"u{n}", 4) == 0)
    elsewhere = next(f"u{n}" for n in range(100) if partition_of(f"u{n}", 4) != 0)

    def answered(user_id: str, at_ms: int) -> dict[str, str]:
        sent = [api.event("item-002", user_id, event_time_ms=at_ms)]
        result: dict[str, str] = api.client.post("/v1/events", json={"events": sent}).json()["results"][0]
        return result

    assert "too old: event_time_ms is 24.0 h behind" in answered(same, NOW_MS - late_ms - 1)["reason"]
    assert answered(same, NOW_MS - late_ms)["status"] == "accepted"
    assert (
        answered(elsewhere, NOW_MS - 9 * late_ms)["status"] == "accepted"
    )  # nothing is known of its partition
    api.store.up = False
    assert answered(same, NOW_MS - 9 * late_ms)["status"] == "accepted"
    assert len(api.logged(Topic.EVENTS)) == 3


def test_an_item_that_the_catalogue_does_not_know_is_accepted_as_it_is(api: Api) -> None:
    assert api.client.post("/v1/events", json=api.event("brand-new")).status_code == 202
    assert parse_event(api.logged(Topic.EVENTS)[0]).context == {}


def test_a_batch_is_judged_event_by_event(api: Api) -> None:
    batch = [api.event("item-001", event_id="a"), api.event("item-002", kind="stare", event_id="b"), 7]
    response = api.client.post("/v1/events", json={"events": batch})
    assert response.status_code == 202
    answer = response.json()
    assert (answer["accepted"], answer["rejected"]) == (1, 2)
    assert [r["status"] for r in answer["results"]] == ["accepted", "rejected", "rejected"]
    assert "stare" in answer["results"][1]["reason"]
    assert answer["results"][1]["event_id"] == "b"
    assert [e["event_id"] for e in api.logged(Topic.EVENTS)] == ["a"]


@pytest.mark.parametrize(
    "change",
    [
        {"type": "stare"},
        {"type": None},
        {"user_id": ""},
        {"user_id": "x" * 129},
        {"item_id": "a\u0000"},
        {"item_id": ["a"]},
        {"event_time_ms": "yesterday"},
        {"event_time_ms": 1750000000000000},
        {"event_time_ms": True},
        {"position": -1},
        {"value": "much"},
        {"value": 1e300},
        {"value": 10**400},
        {"context": {"a": 1}},
        {"context": [1]},
        {"context": {"a": "x" * 600}},
        {"schema_version": 2},
        {"colour": "red"},
        {"event_id": 5},
    ],
    ids=str,
)
def test_a_single_bad_event_is_422_and_nothing_is_logged(api: Api, change: dict[str, Any]) -> None:
    response = api.client.post("/v1/events", json=api.event("item-001") | change)
    assert response.status_code == 422
    assert response.json()["detail"]
    assert api.logged(Topic.EVENTS) == []


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b'{"events": {}}', b'"x"', b"[" * 90_000])
def test_bodies_that_are_no_events(api: Api, body: bytes) -> None:
    assert api.client.post("/v1/events", content=body).status_code in (400, 422)


def test_an_empty_batch_is_accepted(api: Api) -> None:
    assert api.client.post("/v1/events", json={"events": []}).json()["accepted"] == 0


def test_too_large_batches_are_413(make_api: Callable[..., Api]) -> None:
    api = make_api(max_batch=2)
    response = api.client.post("/v1/events", json={"events": [api.event("item-001")] * 3})
    assert response.status_code == 413
    assert "at most 2" in response.json()["detail"]


def test_while_kafka_is_away_events_are_kept_readyz_says_so_and_all_arrive_later(api: Api) -> None:
    api.sink.up = False
    ids = []
    for i in range(5):
        response = api.client.post("/v1/events", json=api.event(f"item-{i:03d}"))
        assert response.status_code == 202
        ids.append(response.json()["results"][0]["event_id"])

    def kafka() -> str:
        response = api.client.get("/readyz")
        assert response.status_code == 200
        return str(response.json()["checks"]["kafka"])

    eventually(lambda: "spool" in kafka())
    api.sink.up = True
    assert [e["event_id"] for e in api.logged(Topic.EVENTS)] == ids
    eventually(lambda: kafka() == "ok")


def test_when_the_spool_is_full_too_the_answer_is_503_and_nothing_is_promised(
    make_api: Callable[..., Api],
) -> None:
    api = make_api(spool_max_bytes=4_096)
    api.sink.up = False
    accepted = 0
    for _ in range(100):
        response = api.client.post("/v1/events", json=api.event("item-001"))
        if response.status_code == 503:
            break
        accepted += 1
    assert response.status_code == 503
    assert response.headers["retry-after"]
    api.sink.up = True
    assert len(api.logged(Topic.EVENTS)) == accepted


def test_events_are_taken_without_a_bundle(make_api: Callable[..., Api]) -> None:
    api = make_api(bundle=False)
    assert api.client.post("/v1/events", json=api.event("item-001")).status_code == 202
