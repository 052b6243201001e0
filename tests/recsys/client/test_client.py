"""The client: what it retries, what it does not, and that a retried request is the same request."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest

from recsys.client import ApiError, AsyncClient, Client, Retry
from recsys.contracts.errors import Unavailable
from recsys.contracts.types import Item, User

ANSWER = {
    "request_id": "r",
    "user_id": "u",
    "bundle": "b",
    "items": [{"item_id": "i", "score": 0.5, "new_field": 1}],
    "degraded": [],
    "ms": 1.0,
}
PROBLEM = {"status": 422, "detail": "k: too large", "request_id": "r9"}


class Server:
    """Answers in the order of its script; an exception is raised instead."""

    def __init__(self, *script: httpx.Response | Exception) -> None:
        self.script = list(script)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    async def answer_async(self, request: httpx.Request) -> httpx.Response:
        return self(request)


def ok(content: Any = ANSWER, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=content)


def busy(status: int = 503, retry_after: str = "") -> httpx.Response:
    headers = {"retry-after": retry_after} if retry_after else {}
    return httpx.Response(status, json=PROBLEM | {"status": status}, headers=headers)


@pytest.fixture
def waited() -> list[float]:
    return []


@pytest.fixture
def client(waited: list[float]) -> Callable[[Server], Client]:
    return lambda server: Client(
        "http://api", transport=httpx.MockTransport(server), sleep=waited.append, retry=Retry(attempts=3)
    )


def test_a_list_is_decoded_and_fields_of_a_newer_api_are_ignored(client: Callable[[Server], Client]) -> None:
    server = Server(ok())
    answer = client(server).recommend("u", k=3, context={"tab": "1"}, exclude=["x"])
    assert (answer.items[0].item_id, answer.items[0].score, answer.bundle) == ("i", 0.5, "b")
    sent = msgspec.json.decode(server.requests[0].content)
    assert sent == {"user_id": "u", "k": 3, "context": {"tab": "1"}, "exclude": ["x"]}


@pytest.mark.parametrize(
    "failure", [httpx.ConnectError("no"), httpx.ReadTimeout("slow"), busy(), busy(429), busy(502)]
)
def test_what_could_not_be_answered_is_sent_again_unchanged(
    client: Callable[[Server], Client], waited: list[float], failure: httpx.Response | Exception
) -> None:
    server = Server(failure, ok({"accepted": 1, "rejected": 0, "results": [{"status": "accepted"}]}, 202))
    client(server).send([{"type": "click", "user_id": "u", "item_id": "i"}])
    first, second = server.requests
    assert first.content == second.content
    assert first.headers["x-request-id"] == second.headers["x-request-id"]
    (event,) = msgspec.json.decode(first.content)["events"]
    assert event["event_id"]
    assert event["event_time_ms"] > 0
    assert len(waited) == 1


def test_it_waits_longer_each_time_or_as_long_as_it_is_asked_to() -> None:
    retry = Retry(first_s=0.1, longest_s=0.5)
    assert [retry.wait_s(n, None, 0.999999) for n in range(4)] == pytest.approx(
        [0.1, 0.2, 0.4, 0.5], rel=1e-3
    )
    assert retry.wait_s(0, None, 0.0) == pytest.approx(0.05)
    assert retry.wait_s(3, busy(retry_after="0"), 0.5) == 0
    assert retry.wait_s(0, busy(retry_after="60"), 0.5) == 0.5


def test_after_the_last_try_it_says_why(client: Callable[[Server], Client], waited: list[float]) -> None:
    with pytest.raises(Unavailable, match="k: too large"):
        client(Server(busy(), busy(), busy())).recommend("u")
    with pytest.raises(Unavailable, match="ConnectError"):
        client(Server(*[httpx.ConnectError("no")] * 3)).recommend("u")
    assert len(waited) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 500])
def test_a_refusal_is_not_sent_again(client: Callable[[Server], Client], status: int) -> None:
    server = Server(busy(status))
    with pytest.raises(ApiError) as refused:
        client(server).recommend("u")
    assert (refused.value.status, refused.value.detail, refused.value.request_id) == (
        status,
        "k: too large",
        "r9",
    )
    assert len(server.requests) == 1


def test_answers_that_are_no_problem_json_are_errors_too(client: Callable[[Server], Client]) -> None:
    with pytest.raises(ApiError, match="teapot"):
        client(Server(httpx.Response(418, text="teapot"))).recommend("u")


def test_ids_are_quoted_and_the_key_is_sent() -> None:
    server = Server(httpx.Response(204), ok({"items": [{"item_id": "b", "score": 1}]}))
    api = Client("http://api", api_key="k", transport=httpx.MockTransport(server))
    api.delete_item("a/b?c")
    assert api.similar("x y")[0].item_id == "b"
    assert server.requests[0].url.raw_path == b"/v1/items/a%2Fb%3Fc"
    assert server.requests[0].headers["x-api-key"] == "k"


def test_a_language_is_sent_with_every_question_about_lists(client: Callable[[Server], Client]) -> None:
    ranking = ANSWER | {"items": [{"item_id": "i", "score": 0.5, "title": "Kalt"}], "unknown": []}
    server = Server(ok(), ok(ranking), ok({"items": []}), ok(ANSWER | {"cursor": "c"}), ok(ANSWER))
    api = client(server)
    api.recommend("u", language="de")
    assert api.rank("u", ["i"], language="de").items[0].title == "Kalt"
    api.similar("i", language="de")
    list(api.pages("u", language="de"))
    recommend, rank, similar, *pages = server.requests
    bodies = [msgspec.json.decode(request.content) for request in (recommend, rank, *pages)]
    assert [body["language"] for body in bodies] == ["de"] * 4
    assert similar.url.params["language"] == "de"
    assert "language" not in Client.question("u")


def test_not_ready_is_an_answer(client: Callable[[Server], Client]) -> None:
    assert client(Server(busy())).ready()["detail"] == "k: too large"


def test_items_are_sent_whole(client: Callable[[Server], Client]) -> None:
    server = Server(ok({"stored": 1}, 202))
    client(server).put_items([Item("a", "T", ("c",), "m", 5, {"x": "y"})])
    assert msgspec.json.decode(server.requests[0].content) == {
        "items": [
            {
                "item_id": "a",
                "title": "T",
                "categories": ["c"],
                "creator": "m",
                "created_ms": 5,
                "attributes": {"x": "y"},
            }
        ]
    }


def test_users_are_sent_one_or_many_under_a_key(client: Callable[[Server], Client]) -> None:
    server = Server(busy(), ok({"stored": 1}, 202), ok({"stored": 2}, 202))
    api = client(server)
    api.put_user(User("a/b", {"age": "31"}))
    api.put_users([User("a", {"age": "31"}), User("b")])
    again, one, many = server.requests
    assert (one.method, one.url.raw_path) == ("PUT", b"/v1/users/a%2Fb")
    assert msgspec.json.decode(one.content) == {"attributes": {"age": "31"}}
    assert msgspec.json.decode(many.content) == {
        "users": [{"user_id": "a", "attributes": {"age": "31"}}, {"user_id": "b", "attributes": {}}]
    }
    keys = [request.headers["idempotency-key"] for request in (again, one, many)]
    assert keys[0] == keys[1] != keys[2]


def test_changes_of_items_go_under_one_key_for_all_tries(client: Callable[[Server], Client]) -> None:
    server = Server(busy(), ok({"stored": 1}, 202), httpx.ConnectError("no"), httpx.Response(204))
    api = client(server)
    api.put_items([Item("a")])
    api.delete_item("a")
    first, second, third, fourth = (request.headers["idempotency-key"] for request in server.requests)
    assert first == second != third == fourth


def test_pages_follow_the_cursor_to_the_end(client: Callable[[Server], Client]) -> None:
    server = Server(ok(ANSWER | {"cursor": "c1"}), ok(ANSWER | {"cursor": "c2"}), ok(ANSWER | {"items": []}))
    assert len(list(client(server).pages("u", k=1))) == 2
    sent = [msgspec.json.decode(request.content)["cursor"] for request in server.requests]
    assert sent == ["", "c1", "c2"]


def test_a_batch_tells_what_became_of_each(client: Callable[[Server], Client]) -> None:
    server = Server(ok({"answers": [{"status": 200, "answer": ANSWER}, {"status": 422, "detail": "k"}]}))
    api = client(server)
    good, bad = api.recommend_many([api.question("u", k=3), api.question("v")])
    assert good.answer is not None
    assert good.answer.items[0].item_id == "i"
    assert (bad.status, bad.answer, bad.detail) == (422, None, "k")
    assert [r["user_id"] for r in msgspec.json.decode(server.requests[0].content)["requests"]] == ["u", "v"]


def test_own_candidates_are_ranked(client: Callable[[Server], Client]) -> None:
    line = {"item_id": "b", "score": 0.5, "scores": {"click": 0.4}}
    server = Server(ok(ANSWER | {"items": [line], "unknown": ["a"]}))
    ranking = client(server).rank("u", ["a", "b"], context={"tab": "1"})
    assert (ranking.items[0].item_id, ranking.items[0].scores["click"], ranking.unknown) == ("b", 0.4, ("a",))
    sent = msgspec.json.decode(server.requests[0].content)
    assert sent == {"user_id": "u", "items": ["a", "b"], "context": {"tab": "1"}}


def test_the_async_client_pages_batches_and_ranks_too() -> None:
    server = Server(
        ok(ANSWER | {"cursor": "c1"}),
        ok(ANSWER),
        ok({"answers": [{"status": 200, "answer": ANSWER}]}),
        ok(ANSWER | {"unknown": []}),
    )

    async def ask() -> tuple[int, int, str]:
        async with AsyncClient("http://api", transport=httpx.MockTransport(server.answer_async)) as api:
            pages = [page async for page in api.pages("u")]
            answers = await api.recommend_many([api.question("u")])
            return len(pages), len(answers), (await api.rank("u", ["i"])).items[0].item_id

    assert asyncio.run(ask()) == (2, 1, "i")


def test_the_async_client_does_the_same() -> None:
    server = Server(busy(), ok())

    async def ask() -> str:
        transport = httpx.MockTransport(server.answer_async)
        async with AsyncClient("http://api", transport=transport, retry=Retry(first_s=0.001)) as api:
            return (await api.recommend("u")).items[0].item_id

    assert asyncio.run(ask()) == "i"
    assert len(server.requests) == 2
