"""What the HTTP server takes alone: a Starlette route that decodes a request and sends a ready list of 20 items."""

import http.client
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from infra.local.process import free_port
from recsys.errors import Unavailable
from serving.wire import Recommendation, RecommendationRequest

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


def median_ms(port: int, user_of: Callable[[int], str], rounds: int, k: int = 20) -> float:
    """Median time of `POST /v1/recommendations` on one connection, one request after the other."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    times = []
    for i in range(rounds):
        body = msgspec.json.encode({"user_id": user_of(i), "k": k})
        began = time.perf_counter()
        connection.request("POST", "/v1/recommendations", body, _JSON)
        connection.getresponse().read()
        times.append((time.perf_counter() - began) * 1e3)
    connection.close()
    return float(np.median(times[rounds // 10 :]))


@contextmanager
def bare_server() -> Iterator[int]:
    """Its port."""
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(port,), daemon=True)
    process.start()
    try:
        _wait(port)
        yield port
    finally:
        process.terminate()
        process.join()


async def _answer(request: Request) -> Response:
    _decode(await request.body())
    return Response(_BODY, media_type="application/json")


def _serve(port: int) -> None:
    app = Starlette(routes=[Route("/v1/recommendations", _answer, methods=["POST"])])
    uvicorn.run(app, port=port, log_level="warning", access_log=False)


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
