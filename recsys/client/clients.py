"""The blocking client and the one for asyncio: the same calls, sent through httpx."""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Generic, ParamSpec, Self, overload

import httpx

from recsys.client import calls
from recsys.client.calls import Call, T, page_after
from recsys.client.models import Recommendations
from recsys.client.retry import Exchange, Retry

P = ParamSpec("P")


class _Endpoint(Generic[P, T]):
    """A call as a method: `Client` returns its result, `AsyncClient` a coroutine."""

    def __init__(self, call: Callable[P, Call[T]]) -> None:
        self._call = call

    @overload
    def __get__(self, client: "Client", owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: "AsyncClient", owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        return functools.wraps(self._call)(lambda *args, **kwargs: client._do(self._call(*args, **kwargs)))


class _Pages(_Endpoint[P, Recommendations]):
    """The same for calls that continue until no page is left."""

    @overload  # type: ignore[override]
    def __get__(self, client: "Client", owner: type) -> Callable[P, Iterator[Recommendations]]: ...
    @overload
    def __get__(self, client: "AsyncClient", owner: type) -> Callable[P, AsyncIterator[Recommendations]]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        return functools.wraps(self._call)(lambda *args, **kwargs: client._pages(self._call(*args, **kwargs)))


class _Calls:
    event = staticmethod(calls.event)
    outcome = staticmethod(calls.outcome)
    question = staticmethod(calls.question)
    recommend = _Endpoint(calls.recommend)
    pages = _Pages(calls.pages)
    recommend_many = _Endpoint(calls.recommend_many)
    rank = _Endpoint(calls.rank)
    send = _Endpoint(calls.send)
    similar = _Endpoint(calls.similar)
    put_items = _Endpoint(calls.put_items)
    delete_item = _Endpoint(calls.delete_item)
    user = _Endpoint(calls.user)
    put_user = _Endpoint(calls.put_user)
    put_users = _Endpoint(calls.put_users)
    merge_user = _Endpoint(calls.merge_user)
    forget_user = _Endpoint(calls.forget_user)
    bundles = _Endpoint(calls.bundles)
    activate = _Endpoint(calls.activate)
    begin_shadow = _Endpoint(calls.begin_shadow)
    end_shadow = _Endpoint(calls.end_shadow)
    shadow_report = _Endpoint(calls.shadow_report)
    ready = _Endpoint(calls.ready)


class Client(_Calls):
    """Blocking and thread-safe; keeps its connections until it is closed."""

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
        self._http = httpx.Client(base_url=url, headers=_key(api_key), timeout=timeout_s, transport=transport)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _do(self, call: Call[T]) -> T:
        exchange = Exchange(self._http, call, self._retry)
        for wait_s in exchange.waits():
            if wait_s:
                self._sleep(wait_s)
            with exchange.attempt():
                exchange.response = self._http.send(exchange.request)
        return exchange.result()

    def _pages(self, call: Call[Recommendations] | None) -> Iterator[Recommendations]:
        while call is not None:
            page = self._do(call)
            if page.items:
                yield page
            call = page_after(call, page)


class AsyncClient(_Calls):
    """`Client` for asyncio."""

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
            base_url=url, headers=_key(api_key), timeout=timeout_s, transport=transport
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def _do(self, call: Call[T]) -> T:
        exchange = Exchange(self._http, call, self._retry)
        for wait_s in exchange.waits():
            if wait_s:
                await asyncio.sleep(wait_s)
            with exchange.attempt():
                exchange.response = await self._http.send(exchange.request)
        return exchange.result()

    async def _pages(self, call: Call[Recommendations] | None) -> AsyncIterator[Recommendations]:
        while call is not None:
            page = await self._do(call)
            if page.items:
                yield page
            call = page_after(call, page)


def _key(api_key: str) -> dict[str, str]:
    return {"x-api-key": api_key} if api_key else {}
