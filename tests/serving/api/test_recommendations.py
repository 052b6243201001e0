"""`POST /v1/recommendations`: the list, what it says of itself, and a defined answer for every bad case."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from recsys.contracts.events import Event
from recsys.contracts.impressions import parse_impression
from recsys.contracts.types import EventType, Topic
from tests.bundles import tiny_items, write_tiny_bundle
from tests.serving.conftest import NOW_MS, Api, click
from tests.serving.waiting import eventually

ALL = {item.item_id for item in tiny_items()}


def test_a_list_has_k_different_items_with_scores_channels_and_titles(api: Api) -> None:
    api.apply([click("item-003")])
    answer = api.recommend(k=7).json()
    assert len({item["item_id"] for item in answer["items"]}) == 7
    assert answer["bundle"] == "v1"
    assert answer["degraded"] == []
    assert answer["ms"] > 0
    for item in answer["items"]:
        assert item["item_id"] in ALL - {"item-003"}
        assert item["channels"]
        assert 0 < item["propensity"] <= 1
        number = int(item["item_id"].removeprefix("item-"))
        assert item["title"] == f"Item {number}"
        assert item["categories"] == [f"category-{number % 4}"]


def test_a_click_changes_the_list_and_hides_the_item(api: Api) -> None:
    before = api.list_of(k=10)
    assert api.client.post("/v1/events", json=api.event(before[0])).status_code == 202
    api.apply_events()
    after = api.list_of(k=10)
    assert before[0] not in after
    assert after != before[1:]


def test_an_unknown_user_and_an_empty_history_get_a_list_without_degradation(api: Api) -> None:
    answer = api.recommend("nobody-has-ever-seen-me", k=5).json()
    assert len(answer["items"]) == 5
    assert answer["degraded"] == []
    channels = {channel for item in answer["items"] for channel in item["channels"]}
    assert "two_tower" not in channels
    assert "popular" in channels


def test_k_larger_than_the_catalogue_gives_the_whole_catalogue_once(api: Api) -> None:
    assert sorted(api.list_of(k=200)) == sorted(ALL)
    api.apply([click("item-001")])
    assert sorted(api.list_of(k=200)) == sorted(ALL - {"item-001"})


def test_excluded_items_are_not_in_the_list(api: Api) -> None:
    first = api.list_of(k=3)
    assert not set(first) & set(api.list_of(k=200, exclude=[*first, "no-such-item"]))


def test_no_bundle_is_503_with_what_to_do(make_api: Callable[..., Api]) -> None:
    api = make_api(bundle=False)
    response = api.recommend()
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert response.headers["content-type"] == "application/problem+json"
    assert "recsys train all" in response.json()["detail"]


def test_without_redis_the_list_is_that_of_an_unknown_user_and_says_so(api: Api) -> None:
    api.apply([click("item-003")])
    unknown = api.list_of("nobody", k=5)
    api.store.up = False
    answer = api.recommend(k=5).json()
    assert answer["degraded"] == ["user_features"]
    assert [item["item_id"] for item in answer["items"]] == unknown
    api.store.up = True
    eventually(lambda: api.recommend(k=5).json()["degraded"] == [])


def test_a_dead_redis_is_asked_by_few_requests_only(api: Api) -> None:
    api.store.up = False
    asked = api.store.refused
    for _ in range(20):
        assert api.recommend().json()["degraded"] == ["user_features"]
    assert api.store.refused["user"] - asked["user"] <= 5


def test_stale_item_features_are_named(make_api: Callable[..., Api]) -> None:
    api = make_api(stale_after_s=1.0)
    assert "item_features" not in api.recommend().json()["degraded"]
    api.store.up = False
    eventually(lambda: "item_features" in api.recommend().json()["degraded"])
    api.store.up = True
    eventually(lambda: api.recommend().json()["degraded"] == [])


def test_item_features_follow_the_stream_of_changes(api: Api) -> None:
    def shown_clicks() -> float:
        funnel = api.recommend("other", query="?explain=true", k=200).json()["funnel"]
        (item,) = (item for item in funnel["shown"] if item["item_id"] == "item-009")
        return float(item["features"]["item_engaged_ever"])

    assert shown_clicks() == 0
    api.apply([click("item-009", f"u{i}") for i in range(3)])
    eventually(lambda: shown_clicks() == 3)


def test_without_a_deadline_left_optional_stages_are_cut_and_named(make_api: Callable[..., Api]) -> None:
    api = make_api(candidates=10)
    assert api.recommend(k=5).json()["degraded"] == []
    path = api.services.request_path
    path.settings = path.settings.model_copy(update={"deadline_ms": 0})
    answer = api.recommend(k=6)
    assert answer.status_code == 200
    assert {"user_features", "two_tower", "rank"} <= set(answer.json()["degraded"])
    assert len(answer.json()["items"]) == 6


def test_every_answer_is_logged_with_the_features_that_were_served(api: Api) -> None:
    api.apply([click("item-003")])
    answer = api.recommend(k=5, context={"tab": "1"}, query="?explain=true").json()
    (raw,) = api.logged(Topic.IMPRESSIONS, 1)
    impression = parse_impression(raw)
    assert impression.request_id == answer["request_id"]
    assert (impression.user_id, impression.bundle, impression.time_ms) == ("u1", "v1", NOW_MS)
    assert impression.context == {"tab": "1"}
    assert [i.item_id for i in impression.items] == [i["item_id"] for i in answer["items"]]
    assert [i.position for i in impression.items] == list(range(5))
    assert [list(i.channels) for i in impression.items] == [i["channels"] for i in answer["items"]]
    for row, shown in zip(impression.features, answer["funnel"]["shown"], strict=True):
        assert row.tolist() == list(shown["features"].values())


def test_what_lies_in_the_cart_comes_back_where_that_is_wanted(make_api: Callable[..., Api]) -> None:
    carts = {"repeats": {"add_to_cart": 0}}
    for settings, channels in ((carts, {"repeat_consumption"}), ({"bundle": False}, set())):
        api = make_api(**settings)
        cart = Event("cart", EventType.ADD_TO_CART, "u1", "item-003", NOW_MS - 60_000)
        api.apply([cart, click("item-004")])
        shown = {item["item_id"]: item["channels"] for item in api.recommend(k=40).json()["items"]}
        assert channels <= set(shown.get("item-003", []))
        assert ("item-003" in shown) == bool(channels)
        assert "item-004" not in shown


def test_a_request_may_allow_what_the_user_has_seen(make_api: Callable[..., Api]) -> None:
    """And a list that was cached for another request is none of it."""
    api = make_api(result_cache_ms=60_000)
    disliked = Event("d", EventType.DISLIKE, "u1", "item-005", NOW_MS - 60_000)
    api.apply([click("item-003"), disliked])
    for allowed in (False, True, False):
        shown = api.list_of(k=40, allow_seen=allowed)
        assert ("item-003" in shown) == allowed
        assert "item-005" not in shown


def test_seen_items_return_as_the_bundle_has_learnt_or_as_it_is_set(
    make_api: Callable[..., Api], tmp_path: Path
) -> None:
    write_tiny_bundle(tmp_path / "learnt" / "bundles", "v1", repeats={"click": 0.0})
    for settings, returns in (({}, True), ({"repeats": {}}, False), ({"repeats": {"click": 30}}, False)):
        api = make_api(False, tmp_path / "learnt", **settings)
        api.apply([click("item-003")])
        assert ("item-003" in api.list_of(k=40)) == returns


def test_a_setting_of_repeats_names_engagements(make_api: Callable[..., Api]) -> None:
    for wrong in ({"impression": 0}, {"click": -1}, {"clck": 0}):
        with pytest.raises(ValidationError, match="repeats"):
            make_api(repeats=wrong)


def test_impressions_can_be_switched_off(make_api: Callable[..., Api]) -> None:
    api = make_api(log_impressions=False)
    api.recommend()
    assert api.logged(Topic.IMPRESSIONS) == []


def test_explain_shows_the_whole_funnel(make_api: Callable[..., Api], tmp_path: Path) -> None:
    rules = (
        tmp_path / "rules.yaml"
    )  # pins are recalled for everyone, so that the filters have something to remove
    pins = ("item-003", "item-007")
    rules.write_text(f"rules: [{', '.join(f'{{name: {i}, pin: {{item: {i}, position: 0}}}}' for i in pins)}]")
    api = make_api(rules=rules)
    api.apply([click("item-003"), click("item-004")])
    answer = api.recommend(k=5, query="?explain=true", exclude=["item-007"]).json()
    funnel = answer["funnel"]
    assert funnel["user"] == {"known": True, "history": 2}
    kinds = [stage["kind"] for stage in funnel["stages"]]
    assert kinds[0] == "query_hydrator"
    assert kinds[-1] == "side_effect"
    assert {"source", "merger", "candidate_hydrator", "filter", "scorer", "selector"} < set(kinds)
    assert all(stage["status"] == "ok" for stage in funnel["stages"])
    assert funnel["channels"]["popular"] > 0
    assert [shown["item_id"] for shown in funnel["shown"]] == [item["item_id"] for item in answer["items"]]
    scores = [ranked["score"] for ranked in funnel["ranked"]]
    assert scores == sorted(scores, reverse=True)
    assert set(funnel["shown"][0]["scores"]) == {"click", "conversion", "like", "dwell"}
    assert all("features" in shown and shown["features"] for shown in funnel["shown"])
    removed = {
        (reason, item["item_id"])
        for reasons in funnel["removed"].values()
        for reason, r in reasons.items()
        for item in r["items"]
    }
    assert removed == {("seen", "item-003"), ("excluded", "item-007")}
    hidden = {"item-003", "item-004", "item-007"}
    assert not hidden & {ranked["item_id"] for ranked in funnel["ranked"]}
    assert "funnel" not in api.recommend(k=5).json()


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "JSON"),
        (b"{", 400, "JSON"),
        (b'{"user_id": NaN}', 400, "JSON"),
        (b"[" * 100_000, 422, "object"),
        (b"\xff\xfe", 400, "JSON"),
        (b"[]", 422, "object"),
        (b"{}", 422, "user_id"),
        (b'{"user_id": ""}', 422, "user_id"),
        (b'{"user_id": 5}', 422, "user_id"),
        (b'{"user_id": "a\\u0000b"}', 422, "user_id"),
        (b'{"user_id": "' + b"x" * 129 + b'"}', 422, "user_id"),
        (b'{"user_id": "u", "k": 0}', 422, "k"),
        (b'{"user_id": "u", "k": -1}', 422, "k"),
        (b'{"user_id": "u", "k": 1.5}', 422, "k"),
        (b'{"user_id": "u", "k": 201}', 422, "200"),
        (b'{"user_id": "u", "k": 99999999999999999999999}', 422, "k"),
        (b'{"user_id": "u", "kk": 3}', 422, "kk"),
        (b'{"user_id": "u", "context": {"a": 1}}', 422, "context"),
        (b'{"user_id": "u", "exclude": ["' + b'a", "' * 1001 + b'"]}', 422, "exclude"),
    ],
)
def test_bad_bodies_are_told_what_is_wrong(api: Api, body: bytes, status: int, says: str) -> None:
    response = api.client.post("/v1/recommendations", content=body)
    assert response.status_code == status
    problem = response.json()
    assert problem["status"] == status
    assert says in problem["detail"]
    assert problem["request_id"] == response.headers["x-request-id"]


def test_explain_takes_true_or_false_only(api: Api) -> None:
    assert api.recommend(query="?explain=maybe").status_code == 422


def test_too_many_requests_at_once_are_refused_at_once(make_api: Callable[..., Api]) -> None:
    api = make_api(max_in_flight=1)
    api.services.admission.in_flight = 1  # as if one were being answered
    response = api.recommend()
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    api.services.admission.in_flight = 0
    assert api.recommend().status_code == 200
