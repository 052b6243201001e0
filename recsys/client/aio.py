"""The client for asyncio."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from recsys.client.calls import Call, Calls, Retry, build, gave_up, key_header, result, worth_a_retry
from recsys.client.models import BatchAnswer, EventResults, Ranking, Recommendations, SimilarItem
from recsys.contracts.types import Item, User


class AsyncClient(Calls):
    """`Client` for asyncio: the same calls, awaited."""

    def __init__(
        self,
        url: str,
        api_key: str = "",
        timeout_s: float = 5.0,
        retry: Retry | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._retry = retry or Retry()
        self._http = httpx.AsyncClient(
            base_url=url, headers=key_header(api_key), timeout=timeout_s, transport=transport
        )

    async def recommend(
        self,
        user_id: str,
        k: int | None = None,
        context: Mapping[str, str] = {},
        exclude: Iterable[str] = (),
        explain: bool = False,
    ) -> Recommendations:
        """A list for one user."""
        body = self.question(user_id, k, context, exclude)
        found: Recommendations = await self._do(self.recommend_call(body, explain))
        return found

    async def pages(
        self, user_id: str, k: int | None = None, context: Mapping[str, str] = {}, exclude: Iterable[str] = ()
    ) -> AsyncIterator[Recommendations]:
        """One list in pages of k items, none of them twice, until nothing is left. Each page is a new answer: what the
        user does between two of them changes the next one."""
        body = self.question(user_id, k, context, exclude, cursor="")
        while True:
            page: Recommendations = await self._do(self.recommend_call(body))
            if page.items:
                yield page
            if page.cursor is None:
                return
            body["cursor"] = page.cursor

    async def recommend_many(self, questions: Sequence[Mapping[str, Any]]) -> list[BatchAnswer]:
        """A list for each `question(…)`, in their order; each may be refused on its own."""
        found: list[BatchAnswer] = (await self._do(self.batch_call(questions)))["answers"]
        return found

    async def rank(self, user_id: str, items: Iterable[str], context: Mapping[str, str] = {}) -> Ranking:
        """Candidates of the caller's own, in the ranker's order."""
        found: Ranking = await self._do(self.rank_call(user_id, items, context))
        return found

    async def send(self, events: Sequence[Mapping[str, Any]]) -> EventResults:
        """Send events (see `event`); those without an id get one. Each is judged on its own."""
        found: EventResults = await self._do(self.send_call(events))
        return found

    async def similar(self, item_id: str, k: int = 20) -> list[SimilarItem]:
        """Neighbours of an item, the nearest first."""
        return msgspec.convert((await self._do(self.similar_call(item_id, k)))["items"], list[SimilarItem])

    async def put_items(self, items: Sequence[Item]) -> None:
        """Add or replace catalogue entries."""
        await self._do(self.put_items_call(items))

    async def delete_item(self, item_id: str) -> None:
        """Take an item out of every list."""
        await self._do(self.on_call("DELETE", "items", item_id, kind=None, once=True))

    async def user(self, user_id: str) -> dict[str, Any]:
        """What the platform holds of a user."""
        found: dict[str, Any] = await self._do(self.on_call("GET", "users", user_id))
        return found

    async def put_user(self, user: User) -> None:
        """Set a user's static attributes, all of them."""
        await self._do(self.put_user_call(user))

    async def put_users(self, users: Sequence[User]) -> None:
        """The same for many."""
        await self._do(self.put_users_call(users))

    async def forget_user(self, user_id: str) -> None:
        """Remove a user's state."""
        await self._do(self.on_call("DELETE", "users", user_id, kind=None))

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _do(self, call: Call) -> Any:
        request = build(self._http, call)
        for attempt in range(self._retry.attempts):
            response, failure = None, ""
            try:
                response = await self._http.send(request)
            except httpx.TransportError as error:
                failure = f"{type(error).__name__}: {error}"
            if response is not None and not worth_a_retry(response, call):
                return result(response, call)
            if attempt + 1 < self._retry.attempts:
                await asyncio.sleep(self._retry.wait_s(attempt, response, random.random()))  # noqa: S311
        raise gave_up(request, response, failure)
