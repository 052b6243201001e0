"""Titles by language as a shop in German and English meets them."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from serving.api.languages import accepted
from tests.serving.conftest import NOW_MS, Api, click
from tests.serving.waiting import eventually

GERMAN_BROWSER = {"accept-language": "de-AT,de;q=0.9,en;q=0.5"}
MILL = {"de": "Kaffeemühle", "en": "Coffee grinder"}


@pytest.fixture
def shop(make_api: Callable[..., Api]) -> Api:
    """Three of the bundle's items with titles, one of them in one language."""
    api = make_api(result_cache_ms=60_000)
    put(
        api,
        {"item_id": "item-001", "title": "Mühle", "titles": MILL},
        {"item_id": "item-002", "title": "Untranslated", "titles": {"fr-CA": "Moulin"}},
        {"item_id": "item-003", "titles": {"en": "Only English"}},
    )
    return api


def put(api: Api, *items: dict[str, Any]) -> None:
    before = api.services.host.require().catalogue.version
    answer = api.client.post("/v1/items", json={"items": [{"created_ms": NOW_MS, **item} for item in items]})
    assert answer.status_code == 202, answer.text
    eventually(lambda: api.services.host.require().catalogue.version > before)


def titles(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 200, answer.text
    return {item["item_id"]: item.get("title", "none") for item in answer.json()["items"]}


def asked(api: Api, headers: dict[str, str] | None = None, query: str = "", **more: Any) -> httpx.Response:
    body = {"user_id": "u", "k": 40, **more}
    answer: httpx.Response = api.client.post(f"/v1/recommendations{query}", json=body, headers=headers)
    return answer


def get(api: Api, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    answer: httpx.Response = api.client.get(path, headers=headers)
    return answer


def test_a_list_is_shown_in_the_language_of_the_request_else_in_that_of_the_browser(shop: Api) -> None:
    default = titles(asked(shop))
    assert (default["item-001"], default["item-002"]) == ("Mühle", "Untranslated")
    assert default["item-003"] == "Only English", "the first title is the default where there is no other"
    german = titles(asked(shop, language="de"))
    assert (german["item-001"], german["item-003"]) == ("Kaffeemühle", "Only English")
    assert titles(asked(shop, GERMAN_BROWSER)) == german
    assert titles(asked(shop, GERMAN_BROWSER, language="en-GB"))["item-001"] == "Coffee grinder"
    assert titles(asked(shop, language="fr"))["item-002"] == "Moulin"
    assert titles(asked(shop, {"accept-language": "da, fr;q=0.2, *;q=0.1"}))["item-002"] == "Moulin"
    assert german.keys() == default.keys()
    assert german["item-004"] == default["item-004"]


def test_a_cached_list_in_another_language_is_not_returned(shop: Api) -> None:
    answers = [asked(shop, language=language) for language in ("de", "en", "de", "en", "DE")]
    assert [answer.json()["cached"] for answer in answers] == [False, False, True, True, True]
    assert [titles(answer)["item-001"] for answer in answers] == [MILL["de"], MILL["en"]] * 2 + [MILL["de"]]
    assert not asked(shop).json()["cached"]
    assert asked(shop).json()["cached"]
    changed = {"item_id": "item-001", "title": "Mühle", "titles": MILL | {"de": "Handmühle"}}
    put(shop, changed)
    assert titles(asked(shop, language="de"))["item-001"] == "Handmühle"


def test_languages_do_not_matter_while_no_item_has_titles(make_api: Callable[..., Api]) -> None:
    api = make_api(result_cache_ms=60_000)
    answers = [asked(api), asked(api, language="de"), asked(api, GERMAN_BROWSER)]
    assert [answer.json()["cached"] for answer in answers] == [False, True, True]
    assert "accept-language" not in get(api, "/v1/popular").headers["vary"]
    put(api, {"item_id": "item-001", "titles": MILL})
    assert titles(asked(api, GERMAN_BROWSER))["item-001"] == "Kaffeemühle"
    assert "accept-language" in get(api, "/v1/popular").headers["vary"]


@pytest.mark.parametrize("path", ["/v1/popular?k=40", "/v1/items/item-005/similar?k=40"])
def test_what_caches_keep_has_a_tag_of_its_own_in_each_language(shop: Api, path: str) -> None:
    german, english = get(shop, f"{path}&language=de"), get(shop, f"{path}&language=en")
    assert titles(german)["item-001"] == "Kaffeemühle"
    assert titles(english)["item-001"] == "Coffee grinder"
    assert german.headers["etag"] != english.headers["etag"] != get(shop, path).headers["etag"]
    assert get(shop, f"{path}&language=en", {"if-none-match": german.headers["etag"]}).status_code == 200
    by_header = get(shop, path, GERMAN_BROWSER)
    assert (by_header.content, by_header.headers["etag"]) == (german.content, german.headers["etag"])
    again = get(shop, path, GERMAN_BROWSER | {"if-none-match": german.headers["etag"]})
    assert again.status_code == 304
    assert "accept-language" in again.headers["vary"]
    assert "accept-language" not in german.headers["vary"], "the address decides"


def test_own_candidates_have_titles_where_the_body_names_a_language(shop: Api) -> None:
    body = {"user_id": "u", "items": ["item-001", "item-004"]}
    for headers in ({}, GERMAN_BROWSER):
        answer = shop.client.post("/v1/rank", json=body, headers=headers)
        assert set(titles(answer).values()) == {"none"}
    answer = shop.client.post("/v1/rank", json=body | {"language": "en"})
    assert titles(answer)["item-001"] == "Coffee grinder"
    assert titles(answer)["item-004"] == titles(asked(shop))["item-004"]
    plain = shop.client.post("/v1/rank", json=body).json()["items"]
    assert [item["score"] for item in answer.json()["items"]] == [item["score"] for item in plain]


def test_each_of_a_batch_has_its_language_else_that_of_the_browser(shop: Api) -> None:
    requests = [{"user_id": "u", "k": 40, **more} for more in ({}, {"language": "en"}, {"language": "?"})]
    answer = shop.client.post(
        "/v1/recommendations/batch", json={"requests": requests[:2]}, headers=GERMAN_BROWSER
    )
    shown = [
        next(item["title"] for item in one["answer"]["items"] if item["item_id"] == "item-001")
        for one in answer.json()["answers"]
    ]
    assert shown == ["Kaffeemühle", "Coffee grinder"]
    refused = shop.client.post("/v1/recommendations/batch", json={"requests": requests})
    assert refused.status_code == 422


def test_an_explanation_and_a_history_are_in_the_language_of_the_list(shop: Api) -> None:
    funnel = asked(shop, query="?explain=true", language="de").json()["funnel"]
    for lines in (funnel["shown"], funnel["ranked"]):
        assert "Kaffeemühle" in [line["title"] for line in lines]
    without: dict[str, Any] = {"language": "en", "filter": "item_id != 'item-001'"}
    funnel = asked(shop, query="?explain=true", **without).json()["funnel"]
    (removed,) = funnel["removed"]["eligibility"]["filter"]["items"]
    assert removed["title"] == "Coffee grinder"

    shop.apply([click("item-001", "u")])
    (visit,) = get(shop, "/v1/users/u?language=en").json()["history"]
    assert visit["title"] == "Coffee grinder"
    (visit,) = get(shop, "/v1/users/u", GERMAN_BROWSER).json()["history"]
    assert visit["title"] == "Kaffeemühle"


@pytest.mark.parametrize("language", ["german", "*", "de;q=1", "x" * 36])
def test_a_language_that_is_none_is_refused_by_every_route_and_left_out_of_a_header(
    api: Api, language: str
) -> None:
    answers = [
        asked(api, language=language),
        api.client.post("/v1/rank", json={"user_id": "u", "items": ["item-001"], "language": language}),
        *(
            api.client.get(path, params={"language": language})
            for path in ("/v1/popular", "/v1/items/item-001/similar", "/v1/users/u")
        ),
    ]
    assert [answer.status_code for answer in answers] == [422] * 5
    assert "language" in answers[0].json()["detail"]
    assert "is not a language tag" in answers[-1].json()["detail"] or len(language) > 35
    assert asked(api, {"accept-language": f"{language}, en"}).status_code == 200


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"titles": {"german": "x"}}, "is not a language tag"),
        ({"titles": {"de": "x" * 513}}, "longer than 512"),
        ({"titles": {f"a{c}{d}": "x" for c in "abcdefghi" for d in "abcdefgh"}}, "titles"),
        ({"titles": ["x"]}, "titles"),
    ],
)
def test_titles_that_are_none_are_refused(api: Api, entry: dict[str, Any], says: str) -> None:
    answer = api.client.post("/v1/items", json={"item_id": "a", **entry})
    assert answer.status_code == 422
    assert says in answer.json()["detail"]


@pytest.mark.parametrize(
    ("header", "languages"),
    [
        ("de", ("de",)),
        ("en;q=0.3, de_at ;q=0.9,fr;q=0.9", ("de-AT", "fr", "en")),
        ("de, en;q=0, *", ("de",)),
        ("de, DE;q=0.5, de", ("de",)),
        ("en;q=nan, fr;q=2, de;q=x, it;v=1;q=1, ;;, =", ("it",)),
        ("", ()),
        ("de," * 400, ()),
    ],
)
def test_a_header_is_read_by_weight_and_as_far_as_it_can_be(header: str, languages: tuple[str, ...]) -> None:
    assert accepted(header) == languages
