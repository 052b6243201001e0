"""The blocking client."""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from recsys.client.calls import Call, Calls, Retry, build, gave_up, key_header, result, worth_a_retry
from recsys.client.models import BatchAnswer, EventResults, Ranking, Recommendations, SimilarItem
from recsys.contracts.types import Item, User


class Client(Calls):
    """Blocking. Thread-safe; keeps its connections until it is closed."""

    def __init__(
        self,
        url: str,
        api_key: str = "",
        timeout_s: float = 5.0,
        retry: Retry | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._retry = retry or Retry()
        self._sleep = sleep
        self._http = httpx.Client(
            base_url=url, headers=key_header(api_key), timeout=timeout_s, transport=transport
        )

    def recommend(
        self,
        user_id: str,
        k: int | None = None,
        context: Mapping[str, str] = {},
        exclude: Iterable[str] = (),
        explain: bool = False,
    ) -> Recommendations:
        """A list for one user."""
        body = self.question(user_id, k, context, exclude)
        found: Recommendations = self._do(self.recommend_call(body, explain))
        return found

    def pages(
        self, user_id: str, k: int | None = None, context: Mapping[str, str] = {}, exclude: Iterable[str] = ()
    ) -> Iterator[Recommendations]:
        """One list in pages of k items, none of them twice, until nothing is left. Each page is a new answer: what the
        user does between two of them changes the next one."""
        body = self.question(user_id, k, context, exclude, cursor="")
        while True:
            page: Recommendations = self._do(self.recommend_call(body))
            if page.items:
                yield page
            if page.cursor is None:
                return
            body["cursor"] = page.cursor

    def recommend_many(self, questions: Sequence[Mapping[str, Any]]) -> list[BatchAnswer]:
        """A list for each `question(…)`, in their order; each may be refused on its own."""
        found: list[BatchAnswer] = (self._do(self.batch_call(questions)))["answers"]
        return found

    def rank(self, user_id: str, items: Iterable[str], context: Mapping[str, str] = {}) -> Ranking:
        """Candidates of the caller's own, in the ranker's order."""
        found: Ranking = self._do(self.rank_call(user_id, items, context))
        return found

    def send(self, events: Sequence[Mapping[str, Any]]) -> EventResults:
        """Send events (see `event`); those without an id get one. Each is judged on its own."""
        found: EventResults = self._do(self.send_call(events))
        return found

    def similar(self, item_id: str, k: int = 20) -> list[SimilarItem]:
        """Neighbours of an item, the nearest first."""
        return msgspec.convert(self._do(self.similar_call(item_id, k))["items"], list[SimilarItem])

    def put_items(self, items: Sequence[Item]) -> None:
        """Add or replace catalogue entries."""
        self._do(self.put_items_call(items))

    def delete_item(self, item_id: str) -> None:
        """Take an item out of every list."""
        self._do(self.on_call("DELETE", "items", item_id, kind=None, once=True))

    def user(self, user_id: str) -> dict[str, Any]:
        """What the platform holds of a user."""
        found: dict[str, Any] = self._do(self.on_call("GET", "users", user_id))
        return found

    def put_user(self, user: User) -> None:
        """Set a user's static attributes, all of them."""
        self._do(self.put_user_call(user))

    def put_users(self, users: Sequence[User]) -> None:
        """The same for many."""
        self._do(self.put_users_call(users))

    def forget_user(self, user_id: str) -> None:
        """Remove a user's state."""
        self._do(self.on_call("DELETE", "users", user_id, kind=None))

    def bundles(self) -> dict[str, Any]:
        """Every bundle, and which one answers."""
        found: dict[str, Any] = self._do(self.on_call("GET", "bundles"))
        return found

    def activate(self, version: str) -> None:
        """Swap a bundle in."""
        self._do(self.on_call("POST", "bundles", version, "activate"))

    def begin_shadow(self, version: str) -> None:
        """Answer a share of the requests with this bundle, too; nobody sees it."""
        self._do(self.on_call("POST", "bundles", version, "shadow"))

    def end_shadow(self) -> None:
        self._do(self.on_call("DELETE", "bundles", "shadow", kind=None))

    def shadow_report(self) -> dict[str, Any]:
        """How the shadow's lists differ from those that were shown."""
        found: dict[str, Any] = self._do(self.on_call("GET", "bundles", "shadow"))
        return found

    def ready(self) -> dict[str, Any]:
        """What the API depends on and how it is; also while it cannot answer requests."""
        found: dict[str, Any] = self._do(Call("GET", "/readyz", dict[str, Any], status=frozenset({503})))
        return found

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _do(self, call: Call) -> Any:
        request = build(self._http, call)
        for attempt in range(self._retry.attempts):
            response, failure = None, ""
            try:
                response = self._http.send(request)
            except httpx.TransportError as error:
                failure = f"{type(error).__name__}: {error}"
            if response is not None and not worth_a_retry(response, call):
                return result(response, call)
            if attempt + 1 < self._retry.attempts:
                self._sleep(self._retry.wait_s(attempt, response, random.random()))  # noqa: S311
        raise gave_up(request, response, failure)
