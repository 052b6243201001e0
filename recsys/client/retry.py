"""When a request is retried, and what its response means. No input or output here: the clients send and wait."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic

import httpx
import msgspec

from recsys.client.calls import Call, T
from recsys.client.models import ApiError
from recsys.contracts.errors import Unavailable
from recsys.contracts.events import new_id

RETRIED = frozenset({429, 502, 503, 504})


@dataclass(frozen=True)
class Retry:
    """Up to `attempts` attempts; before the n-th retry, up to `first_s` · 2ⁿ seconds, at most `longest_s`."""

    attempts: int = 4
    first_s: float = 0.1
    longest_s: float = 5.0

    def wait_s(self, attempt: int, response: httpx.Response | None, jitter: float) -> float:
        """Seconds to wait after the `attempt`-th failure (from 0). `jitter` in [0, 1)."""
        retry_after = response.headers.get("retry-after", "") if response is not None else ""
        if retry_after.isdigit():
            return min(float(retry_after), self.longest_s)
        return float(min(self.first_s * 2**attempt, self.longest_s) * (0.5 + jitter / 2))


class Exchange(Generic[T]):
    """One request and its attempts, which all carry the same request id and idempotency key.

    for wait_s in exchange.waits():
        sleep(wait_s)
        with exchange.attempt():
            exchange.response = http.send(exchange.request)
    return exchange.result()
    """

    def __init__(self, http: httpx.Client | httpx.AsyncClient, call: Call[T], retry: Retry) -> None:
        content = None if call.body is None else msgspec.json.encode(call.body)
        headers = {"x-request-id": new_id()}
        if content:
            headers["content-type"] = "application/json"
        if call.idempotent:
            headers["idempotency-key"] = headers["x-request-id"]
        self.request = http.build_request(
            call.method, call.path, content=content, params=call.params, headers=headers
        )
        self.response: httpx.Response | None = None
        self._failure = ""
        self._call = call
        self._retry = retry

    def waits(self) -> Iterator[float]:
        """Seconds to wait before each attempt, until one is answered or none is left."""
        yield 0.0
        for attempt in range(self._retry.attempts - 1):
            if self._answered():
                return
            yield self._retry.wait_s(attempt, self.response, random.random())  # noqa: S311

    @contextmanager
    def attempt(self) -> Iterator[None]:
        self.response = None
        try:
            yield
        except httpx.TransportError as error:
            self._failure = f"{type(error).__name__}: {error}"

    def result(self) -> T:
        """
        Raises:
            ApiError: the API refused the request.
            Unavailable: no attempt was answered.
        """
        request, response = self.request, self.response
        if response is None or not self._answered():
            why = self._failure if response is None else str(_refusal(response))
            raise Unavailable(f"{request.method} {request.url}: no answer after several attempts: {why}")
        if not response.is_success and response.status_code not in self._call.accepted:
            raise _refusal(response)
        return self._call.decode(response.content)

    def _answered(self) -> bool:
        return self.response is not None and self.response.status_code not in RETRIED - self._call.accepted


def _refusal(response: httpx.Response) -> ApiError:
    try:
        problem = msgspec.json.decode(response.content, type=dict[str, Any])
    except msgspec.DecodeError:
        problem = {"detail": response.text[:200]}
    return ApiError(response.status_code, str(problem.get("detail", "")), str(problem.get("request_id", "")))
