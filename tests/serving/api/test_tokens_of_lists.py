"""RECSYS_ITEM_TOKENS over HTTP: what a list gives and what an event does with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from recsys.client.calls import outcome
from recsys.client.models import Recommendations
from recsys.contracts.event_log import partition_of
from recsys.contracts.events import parse_event
from recsys.contracts.types import MS_PER_DAY, Topic
from tests.serving.conftest import NOW_MS, Api, click


@pytest.fixture
def strict(make_api: Callable[..., Api]) -> Api:
    return make_api(item_tokens="on")


def listed(api: Api, user: str = "u1", **body: Any) -> Recommendations:
    return msgspec.json.decode(api.recommend(user, **body).content, type=Recommendations)


def sent(api: Api, *events: dict[str, Any]) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = api.client.post("/v1/events", json={"events": events}).json()["results"]
    return results


def requests_of(api: Api) -> list[str | None]:
    return [parse_event(raw).request_id for raw in api.logged(Topic.EVENTS)]


def test_what_was_shown_counts_as_an_outcome_and_a_made_up_request_does_not(strict: Api) -> None:
    answer = listed(strict, k=5)
    made_up = strict.event("item-039", request_id="made-up", position=0)
    of_the_list = strict.event("item-039", request_id=answer.request_id, token=answer.items[0].token)
    assert "item-039" not in {item.item_id for item in answer.items}
    results = sent(strict, outcome("click", answer, 2), made_up, of_the_list)
    assert [result["status"] for result in results] == ["accepted"] * 3
    assert [result["reason"] != "" for result in map(_full, results)] == [False, True, True]
    assert requests_of(strict) == [answer.request_id, None, None]
    counts = {
        why: strict.services.telemetry.unproven_events.labels(why)._value.get()
        for why in ("missing", "wrong")
    }
    assert counts == {"missing": 1, "wrong": 1}


def test_a_click_that_is_sent_a_hundred_times_with_new_ids_is_one_event(strict: Api) -> None:
    answer = listed(strict, k=5)
    sent(strict, *(outcome("click", answer, 0) for _ in range(100)))
    assert len({raw["event_id"] for raw in strict.logged(Topic.EVENTS)}) == 1


def test_a_cached_list_has_tokens_of_its_own_request(strict: Api) -> None:
    first, second = listed(strict, k=5), listed(strict, k=5)
    assert second.cached
    assert {i.token for i in first.items}.isdisjoint(i.token for i in second.items)
    sent(strict, outcome("click", first, 0), outcome("click", second, 0))
    assert requests_of(strict) == [first.request_id, second.request_id]


def test_lists_of_a_batch_have_tokens_too(strict: Api) -> None:
    body = {"requests": [{"user_id": "u1", "k": 3}, {"user_id": "u2", "k": 3}]}
    for raw in strict.client.post("/v1/recommendations/batch", json=body).json()["answers"]:
        sent(strict, outcome("click", msgspec.convert(raw["answer"], Recommendations), 0))
    assert None not in requests_of(strict)


def test_every_process_with_the_key_takes_the_token(make_api: Callable[..., Api], tmp_path: Path) -> None:
    shared = {"item_tokens": "on", "cursor_key": tmp_path / "key"}
    first, second = make_api(**shared), make_api(bundle=False, **shared)
    answer = listed(first, k=5)
    sent(second, outcome("click", answer, 0))
    assert requests_of(second) == [answer.request_id]


def test_without_the_setting_lists_have_no_tokens_and_events_may_have_one(api: Api) -> None:
    answer = listed(api, k=5)
    assert not any(item.token for item in answer.items)
    assert b'"token"' not in api.recommend(k=5).content
    sent(api, outcome("click", answer, 0) | {"token": "left from another time"})
    assert requests_of(api) == [answer.request_id]


def test_watching_counts_what_is_missing_and_changes_nothing(make_api: Callable[..., Api]) -> None:
    api = make_api(item_tokens="watch")
    answer = listed(api, k=5)
    assert all(item.token for item in answer.items)
    bare = api.event("item-001", request_id="made-up", event_id="own")
    proven = outcome("click", answer, 0)
    results = sent(api, bare, proven)
    assert [result.get("reason", "") for result in results] == ["", ""]
    assert [raw["event_id"] for raw in api.logged(Topic.EVENTS)] == ["own", proven["event_id"]]
    assert requests_of(api) == ["made-up", answer.request_id]
    assert api.services.telemetry.unproven_events.labels("missing")._value.get() == 1


def test_a_refused_event_is_not_counted_as_unproven(strict: Api) -> None:
    strict.apply([click("item-001", "other", NOW_MS)])
    same = next(f"u{n}" for n in range(100) if partition_of(f"u{n}", 4) == 0)
    old = strict.event("item-002", same, request_id="r", event_time_ms=NOW_MS - 9 * MS_PER_DAY)
    assert sent(strict, old)[0]["status"] == "rejected"
    assert strict.services.telemetry.unproven_events.labels("missing")._value.get() == 0


@pytest.mark.parametrize("mode", ["on", "watch", "off"])
def test_a_token_that_is_not_a_string_is_refused(make_api: Callable[..., Api], mode: str) -> None:
    api = make_api(item_tokens=mode)
    response = api.client.post("/v1/events", json=api.event("item-001", request_id="r", token=7))
    assert response.status_code == 422
    assert "token: a string is required, got 7" in response.json()["detail"]


def _full(result: dict[str, Any]) -> dict[str, Any]:
    return {"reason": "", **result}
