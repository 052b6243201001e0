"""The floor of HTTP: an ASGI app that decodes a request and sends a ready list of 20 items."""

import http.client
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
import numpy as np
import uvicorn

from infra.evaluation.timing import seconds
from infra.local.process import free_port
from recsys.contracts.errors import Unavailable
from serving.api.wire import RecommendationRequest
from serving.engine.result_cache import Recommendation

_START_S = 60.0
_JSON = {"content-type": "application/json"}
_decode = msgspec.json.Decoder(RecommendationRequest).decode
_BODY = msgspec.json.encode(
    [
        Recommendation(
            item_id=f"item-{i:07d}",
            score=0.5,
            propensity=1.0,
            channels=["two_tower", "popular"],
            title=f"Item {i}",
            categories=["category-1", "category-2"],
        )
        for i in range(20)
    ]
)
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(_BODY)).encode())]


def median_ms(port: int, user_of: Callable[[int], str], rounds: int, k: int = 20) -> float:
    """Median milliseconds of `POST /v1/recommendations` on one connection, one request after the other."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def request(body: bytes) -> None:
        connection.request("POST", "/v1/recommendations", body, _JSON)
        connection.getresponse().read()

    bodies = [msgspec.json.encode({"user_id": user_of(i), "k": k}) for i in range(rounds)]
    times = [seconds(partial(request, body)) for body in bodies]
    connection.close()
    return 1e3 * float(np.median(times[rounds // 10 :]))


@contextmanager
def bare_server() -> Iterator[int]:
    """Run it in a process; yields its port."""
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(port,), daemon=True)
    process.start()
    try:
        _wait(port)
        yield port
    finally:
        process.terminate()
        process.join()


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    """Do as little as a server can: no routes, no middleware, no ids."""
    message = await receive()
    body = bytes(message["body"])
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    _decode(body)
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _BODY})


def _serve(port: int) -> None:
    uvicorn.run(_answer, port=port, log_level="warning", access_log=False, lifespan="off")


def _wait(port: int) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            median_ms(port, str, 1)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise Unavailable("the bare HTTP server does not start") from None
            time.sleep(0.05)
