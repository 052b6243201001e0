"""`POST /v1/rank` and `POST /v1/recommendations/batch`, and answers that are compressed."""

import gzip
from collections.abc import Callable

import httpx
import pytest
import zstandard

from recsys.contracts.types import Topic
from tests.serving.conftest import Api, click
from tests.serving.waiting import eventually


def rank(api: Api, items: list[str], user_id: str = "u1", **more: object) -> httpx.Response:
    response: httpx.Response = api.client.post("/v1/rank", json={"user_id": user_id, "items": items, **more})
    return response


def test_candidates_come_back_in_the_order_of_the_ranker_all_of_them(api: Api) -> None:
    api.apply([click("item-003")])
    asked = [f"item-{i:03d}" for i in range(12)]
    answer = rank(api, asked).json()
    ranked = [item["item_id"] for item in answer["items"]]
    assert sorted(ranked) == asked
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)
    assert set(answer["items"][0]["scores"]) == {"click", "conversion", "like", "dwell"}
    assert (answer["unknown"], answer["degraded"], answer["bundle"]) == ([], [], "v1")
    assert "item-003" in ranked  # seen, and yet ranked: the caller decides what is shown


def test_scores_are_those_of_the_whole_funnel(api: Api) -> None:
    api.apply([click("item-003")])
    funnel = api.recommend(k=40, query="?explain=true").json()["funnel"]
    by_item = {item["item_id"]: item["score"] for item in funnel["ranked"]}
    for item in rank(api, list(by_item)).json()["items"]:
        assert item["score"] == pytest.approx(by_item[item["item_id"]])


def test_unknown_and_deleted_candidates_are_named_and_repeats_ranked_once(api: Api) -> None:
    api.client.delete("/v1/items/item-005")
    eventually(lambda: rank(api, ["item-005"]).json()["unknown"] == ["item-005"])
    answer = rank(api, ["item-001", "nothing", "item-001", "item-005"]).json()
    assert [item["item_id"] for item in answer["items"]] == ["item-001"]
    assert answer["unknown"] == ["nothing", "item-005"]
    assert rank(api, ["nothing"]).json()["items"] == []


def test_ranking_is_not_logged_as_shown(api: Api) -> None:
    rank(api, ["item-001"])
    api.recommend(k=1)
    assert len(api.logged(Topic.IMPRESSIONS, 1)) == 1


def test_without_time_the_candidates_keep_the_callers_order_and_the_answer_says_so(api: Api) -> None:
    path = api.services.request_path
    path.settings = path.settings.model_copy(update={"deadline_ms": 0})
    asked = ["item-009", "item-002", "item-030"]
    answer = rank(api, asked).json()
    assert [item["item_id"] for item in answer["items"]] == asked
    assert "rank" in answer["degraded"]
    assert answer["items"][0]["scores"] == {}


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{}", 422, "user_id"),
        (b'{"user_id": "u"}', 422, "items"),
        (b'{"user_id": "u", "items": []}', 422, "items"),
        (b'{"user_id": "u", "items": [1]}', 422, "items"),
        (b'{"user_id": "u", "items": ["a"], "k": 1}', 422, "k"),
        (b'{"user_id": "u", "items": ["' + b'a", "' * 1_000 + b'"]}', 422, "items"),
        (b'{"user_id": "u", "items": [NaN]}', 400, "JSON"),
        (b"[" * 50_000, 422, "object"),
    ],
)
def test_bad_bodies_are_told_what_is_wrong(api: Api, body: bytes, status: int, says: str) -> None:
    response = api.client.post("/v1/rank", content=body)
    assert response.status_code == status
    assert says in response.json()["detail"]


def batch(api: Api, requests: list[dict[str, object]]) -> httpx.Response:
    response: httpx.Response = api.client.post("/v1/recommendations/batch", json={"requests": requests})
    return response


def test_each_of_a_batch_gets_what_it_would_have_got_alone(api: Api) -> None:
    api.apply([click("item-003")])
    asked = [{"user_id": "u1", "k": 4}, {"user_id": "nobody", "k": 3}, {"user_id": "u1", "k": 201}]
    answers = batch(api, asked).json()["answers"]
    assert [answer["status"] for answer in answers] == [200, 200, 422]
    assert [i["item_id"] for i in answers[0]["answer"]["items"]] == api.list_of("u1", k=4)
    assert [i["item_id"] for i in answers[1]["answer"]["items"]] == api.list_of("nobody", k=3)
    assert "201" in answers[2]["detail"]
    assert "answer" not in answers[2]


def test_each_list_of_a_batch_is_logged_under_an_id_of_its_own(api: Api) -> None:
    answers = batch(api, [{"user_id": "a", "k": 2}, {"user_id": "b", "k": 2}]).json()["answers"]
    logged = {i["request_id"]: i["user_id"] for i in api.logged(Topic.IMPRESSIONS, 2)}
    assert logged == {a["answer"]["request_id"]: a["answer"]["user_id"] for a in answers}


def test_batches_are_bounded_and_judged_as_a_whole_when_they_are_no_batch(
    make_api: Callable[..., Api],
) -> None:
    api = make_api(max_batch=2)
    assert batch(api, [{"user_id": "u"}] * 3).status_code == 413
    assert batch(api, []).status_code == 422
    assert batch(api, [{"user": "u"}]).status_code == 422
    assert batch(api, [{"user_id": "u"}] * 2).status_code == 200


def test_a_process_that_is_full_refuses_each_of_a_batch(make_api: Callable[..., Api]) -> None:
    api = make_api(max_in_flight=1)
    api.services.admission.in_flight = 1
    answers = batch(api, [{"user_id": "u"}]).json()["answers"]
    assert answers == [{"status": 503, "detail": "too many requests; retry later"}]


def test_long_answers_are_compressed_for_those_who_can_read_it(api: Api) -> None:
    def raw(accepts: str, k: int) -> tuple[str, bytes]:
        headers = {"accept-encoding": accepts}
        with api.client.stream(
            "POST", "/v1/recommendations", json={"user_id": "u", "k": k}, headers=headers
        ) as response:
            return response.headers.get("content-encoding", ""), b"".join(response.iter_raw())

    plain = raw("identity", 40)
    assert plain[0] == ""
    encoding, content = raw("gzip", 40)
    assert encoding == "gzip"
    assert len(gzip.decompress(content)) == pytest.approx(len(plain[1]), abs=20)
    encoding, content = raw("gzip, zstd", 40)
    assert encoding == "zstd"
    assert b'"items"' in zstandard.ZstdDecompressor().decompressobj().decompress(content)
    assert len(content) < len(plain[1]) / 2
    assert raw("gzip, zstd", 1)[0] == ""
