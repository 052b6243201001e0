"""Filters, windows and regions as a client meets them."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from recsys.contracts.types import MS_PER_MINUTE, Topic
from tests.serving.conftest import NOW_MS, Api, click
from tests.serving.waiting import eventually

DE = {"region": "de"}


@pytest.fixture(params=["on", "off"])
def shop(make_api: Callable[..., Api], request: pytest.FixtureRequest) -> Api:
    """Items with prices, windows and regions besides those of the bundle; by compiled code and without."""
    api = make_api(native=request.param, result_cache_ms=60_000)
    put(
        api,
        *({"item_id": f"p{price}", "attributes": {"price": str(price)}} for price in range(10, 40)),
        {"item_id": "ends", "available_until_ms": NOW_MS + MS_PER_MINUTE, "categories": ["window"]},
        {"item_id": "starts", "available_from_ms": NOW_MS + MS_PER_MINUTE, "categories": ["window"]},
        {"item_id": "ended", "available_until_ms": NOW_MS, "categories": ["window"]},
        {"item_id": "german", "regions": ["de", "at"], "categories": ["window"]},
    )
    return api


def put(api: Api, *items: dict[str, Any]) -> None:
    entries = [{"created_ms": NOW_MS - n, **item} for n, item in enumerate(items)]
    answer = api.client.post("/v1/items", json={"items": entries})
    assert answer.status_code == 202, answer.text
    eventually(lambda: items[-1]["item_id"] in api.services.host.require().catalogue.rows)


def at(api: Api, now_ms: int) -> None:
    """Set the clock of the requests."""
    api.services.request_path.now_ms = lambda: now_ms


def similar(api: Api, item_id: str, **params: object) -> httpx.Response:
    answer: httpx.Response = api.client.get(f"/v1/items/{item_id}/similar", params={"k": 100, **params})
    return answer


def test_a_list_has_what_its_filter_wants_and_all_of_it(shop: Api) -> None:
    assert sorted(shop.list_of(k=40, filter="price < 13")) == ["p10", "p11", "p12"]
    assert sorted(shop.list_of(k=2, filter="price in [20, 30]")) == ["p20", "p30"]
    assert shop.list_of(k=5, filter="price > 100") == []
    category = shop.list_of(k=40, filter="'category-1' in categories and not item_id == 'item-001'")
    assert sorted(category) == [f"item-{n:03d}" for n in range(5, 40, 4)]


def test_a_list_is_logged_as_narrowed_where_the_request_left_the_shop_little_choice(shop: Api) -> None:
    offered = shop.services.host.require().artifacts.eligibility.offered(NOW_MS)
    known = [f"item-{n:03d}" for n in range(40)]
    half, fewer = (f"item_id in {known[: -(-offered // 2) - less]}" for less in (0, 1))
    hidden = ["ended", "starts", "german"]  # cannot be shown anyway
    few: dict[str, Any] = {"k": 5, "filter": "price < 20"}
    asked: list[tuple[dict[str, Any], int]] = [
        ({"k": 5}, 100),
        ({"k": 101}, 100),
        ({"k": 5, "filter": half}, 100),
        ({"k": 5, "filter": fewer}, 0),
        ({"k": 5, "filter": half, "exclude": ["item-000"]}, 0),
        (few, 0),
        (few, 0),  # from the cache
        (few | {"region": "de"}, 0),
        ({"k": 5, "region": "de"}, 100),  # a region is where the visitor is
        ({"k": 5, "exclude": known[:30]}, 70),
        ({"k": 5, "exclude": known}, 0),  # less than half remains
        ({"k": 5, "exclude": [f"other-{n}" for n in range(200)]}, 100),  # nothing that there is
        ({"k": 5, "exclude": [*known[: offered // 2], *hidden]}, 100 - offered // 2),
        ({"k": 71, "exclude": known[:30]}, 70),
    ]
    before = len(shop.logged(Topic.IMPRESSIONS))
    for body, _ in asked:
        assert shop.list_of(**body)
    logged = shop.logged(Topic.IMPRESSIONS, before + len(asked))[before:]
    assert [each["narrowed_from"] for each in logged] == [place for _, place in asked]


def test_seen_and_excluded_items_stay_hidden_from_a_filtered_list(shop: Api) -> None:
    shop.apply([click("p10")])
    assert shop.list_of(k=9, filter="price < 13", exclude=["p11"]) == ["p12"]


def test_pages_of_a_filtered_list_have_each_item_once(shop: Api) -> None:
    shown: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = shop.recommend(k=4, cursor=cursor, filter="price < 20").json()
        shown += [item["item_id"] for item in page["items"]]
        cursor = page.get("cursor")
    assert sorted(shown) == [f"p{price}" for price in range(10, 20)]


def test_the_same_question_with_another_filter_or_region_is_another_list(shop: Api) -> None:
    asked: dict[str, Any] = {"k": 3, "filter": "price < 13", "region": "fr"}
    assert not shop.recommend(**asked).json()["cached"]
    assert shop.recommend(**asked).json()["cached"]
    assert not shop.recommend(**asked | {"filter": "price < 14"}).json()["cached"]
    assert not shop.recommend(**asked | {"region": "de"}).json()["cached"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("price <", "invalid syntax"),
        ("colour == 'red'", "no item has 'colour'; known are item_id, title, categories"),
        ("price > 'a'", "price: only numbers have an order"),
        ("categories > 3", "categories holds texts"),
        ("exec('x') == 1", "one side of a comparison must be a field"),
        ("x" * 2_001, "filter"),
    ],
)
def test_a_wrong_filter_is_told_what_is_wrong_by_every_route(api: Api, asked: str, says: str) -> None:
    put(api, {"item_id": "a", "attributes": {"price": "3"}})
    answers = [
        api.recommend(filter=asked),
        api.client.post("/v1/rank", json={"user_id": "u", "items": ["a"], "filter": asked}),
        similar(api, "item-001", filter=asked),
    ]
    for answer in answers:
        assert answer.status_code == 422, answer.text
    assert says in answers[0].json()["detail"]
    one_of_two = {"requests": [{"user_id": "u", "filter": asked}, {"user_id": "u"}]}
    batch = api.client.post("/v1/recommendations/batch", json=one_of_two)
    if len(asked) <= 2_000:
        assert [each["status"] for each in batch.json()["answers"]] == [422, 200]


def test_no_list_shows_an_item_outside_its_window(shop: Api) -> None:
    assert {"ends"} == window(shop)
    at(shop, NOW_MS + MS_PER_MINUTE - 1)
    assert {"ends"} == window(shop), "from the cache"
    at(shop, NOW_MS + MS_PER_MINUTE)
    assert {"starts"} == window(shop), "the cached list ended with the window of its item"
    assert "ends" not in [item["item_id"] for item in similar(shop, "item-001").json()["items"]]
    at(shop, NOW_MS)


def window(api: Api, **more: Any) -> set[str]:
    filtered = set(api.list_of(k=40, filter="'window' in categories", **more))
    assert filtered == {i for i in api.list_of(k=200, **more) if not i.startswith(("p", "item-"))}
    return filtered


def test_items_with_regions_need_the_region_of_the_request_or_of_the_user(shop: Api) -> None:
    assert "german" not in window(shop)
    assert "german" not in window(shop, region="fr")
    assert "german" in window(shop, region="at")
    shop.client.put("/v1/users/anna", json={"attributes": {"region": "de"}})
    assert "german" in window(shop, user_id="anna")
    assert "german" not in window(shop, user_id="anna", region="fr"), "the request's region counts"


def test_candidates_of_the_caller_that_may_not_be_shown_are_named_with_the_reason(shop: Api) -> None:
    asked = {"user_id": "u", "items": ["p10", "p30", "ended", "german", "starts", "no such"]}
    answer = shop.client.post("/v1/rank", json={**asked, "filter": "not price > 20"}).json()
    assert [item["item_id"] for item in answer["items"]] == ["p10"]
    assert answer["unknown"] == ["no such"]
    assert answer["ineligible"] == {
        "p30": ["filter"],
        "ended": ["unavailable"],
        "german": ["region"],
        "starts": ["unavailable"],
    }


def test_neighbours_are_filtered(shop: Api) -> None:
    near = [
        item["item_id"]
        for item in similar(shop, "item-001", filter="'category-2' in categories").json()["items"]
    ]
    assert sorted(near) == [f"item-{n:03d}" for n in range(2, 40, 4)]


def test_an_explanation_names_what_was_not_eligible_and_why(shop: Api) -> None:
    asked: dict[str, Any] = {"k": 3, "filter": "not price > 20", "query": "?explain=true"}
    funnel = shop.recommend(**asked).json()["funnel"]
    why = {
        reason: {item["item_id"] for item in found["items"]}
        for reason, found in funnel["removed"]["eligibility"].items()
    }
    assert why == {
        "unavailable": {"ended", "starts"},
        "region": {"german"},
        "filter": {f"p{price}" for price in range(21, 40)},
    }
    assert [stage["stage"] for stage in funnel["stages"]][:2] == ["user_features", "eligibility"]
    assert "filtered" in funnel["channels"]


def test_both_request_paths_give_the_same_filtered_list(make_api: Callable[..., Api], tmp_path: Any) -> None:
    lists = []
    for native in ("on", "off"):
        api = make_api(native=native, home=tmp_path / native)
        put(api, *({"item_id": f"p{price}", "attributes": {"price": str(price)}} for price in range(10, 40)))
        api.apply([click("p12"), click("item-003")])
        asked: dict[str, Any] = {"k": 20, "filter": "price < 25 or 'category-3' in categories"}
        lists.append([(item["item_id"], item["channels"]) for item in api.recommend(**asked).json()["items"]])
        served = "compiled" if native == "on" else "stages"
        assert f'recsys_request_path_total{{path="{served}"}} 1.0' in api.client.get("/metrics").text
    assert lists[0] == lists[1]


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"available_from_ms": 9, "available_until_ms": 9}, "must be after available_from_ms"),
        ({"available_until_ms": -1}, "available_until_ms"),
        ({"regions": ["a|b"]}, "regions"),
        ({"regions": ["x"] * 301}, "regions"),
    ],
)
def test_windows_and_regions_that_are_none_are_refused(api: Api, item: dict[str, Any], says: str) -> None:
    answer = api.client.post("/v1/items", json={"item_id": "a", **item})
    assert answer.status_code == 422
    assert says in answer.json()["detail"]
