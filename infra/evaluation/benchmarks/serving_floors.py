"""What each part takes alone, in this run: the request path cannot be faster than their sum.

The floor of HTTP is an ASGI app that decodes a request and sends a ready list of 20 items.
"""

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
from numpy.typing import NDArray

from infra.evaluation.benchmarks.serving_fixture import LENGTH
from infra.evaluation.load.traffic import zipf
from infra.evaluation.timing import seconds
from infra.local.process import free_port
from recsys.bundle import Bundle
from recsys.contracts.errors import Unavailable
from recsys.features.definitions import FEATURES
from recsys.native import core
from recsys.ranking.compiled import open_ranker
from recsys.ranking.scorer import INPUTS, Ranker
from recsys.recall.ann import AnnIndex
from recsys.recall.item_vectors import ItemVectors
from recsys.recall.two_tower import UserTower
from recsys.store.base import FeatureStore
from serving.api.wire import RecommendationRequest
from serving.engine.result_cache import Recommendation

ROUNDS = 200
_CANDIDATES, _RECALLED = 500, 375
_BATCH = 4
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


def floors(bundle: Bundle, store: FeatureStore, users: int, seed: int) -> dict[str, float]:
    """Median milliseconds of each part on one thread, and their sum."""
    rng = np.random.default_rng(seed)
    index = AnnIndex.load(bundle.file("index.faiss"))
    items = ItemVectors.of(bundle.arrays("item_vectors.safetensors"))
    tower = UserTower(bundle.file("user_tower.onnx"), items.vectors, core is not None, items.linear)
    ranker, n_items = open_ranker(bundle.path), len(index)
    user_of = zipf_users(users, seed)
    history = rng.integers(1, n_items + 1, (1, LENGTH))
    ones = np.ones_like(history)
    vector = tower.vectors(history, ones, ones)
    inputs = ranker_inputs(n_items, _CANDIDATES, rng)
    parts = {
        "floor_redis_ms": _median_ms(lambda i: store.user(user_of(i))),
        "floor_tower_ms": _median_ms(lambda i: tower.vectors(history, ones, ones)),
        "floor_faiss_ms": _median_ms(lambda i: index.search(vector, _RECALLED)),
        "floor_ranker_ms": _median_ms(lambda i: ranker.run(inputs)),
    }
    with bare_server() as port:
        parts["floor_http_ms"] = median_ms(port, user_of, ROUNDS)
    return parts | {"floor_total_ms": sum(parts.values())} | _batched(index, tower, ranker, n_items, rng)


def _batched(
    index: AnnIndex, tower: UserTower, ranker: Ranker, n_items: int, rng: np.random.Generator
) -> dict[str, float]:
    """Milliseconds per request when several run together: what a micro-batch could win. The ranker's graph takes one
    user, so twice the candidates stand for two users."""
    history = rng.integers(1, n_items + 1, (_BATCH, LENGTH))
    ones = np.ones_like(history)
    vectors = tower.vectors(history, ones, ones)
    inputs = ranker_inputs(n_items, 2 * _CANDIDATES, rng)
    return {
        f"batch{_BATCH}_tower_ms": _median_ms(lambda i: tower.vectors(history, ones, ones)) / _BATCH,
        f"batch{_BATCH}_faiss_ms": _median_ms(lambda i: index.search(vectors, _RECALLED)) / _BATCH,
        "batch2_ranker_ms": _median_ms(lambda i: ranker.run(inputs)) / 2,
    }


def ranker_inputs(n_items: int, candidates: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Inputs of one ranking, by name: random candidates of a random history."""
    history = rng.integers(1, n_items + 1, (1, LENGTH))
    ones = np.ones_like(history)
    numbers = rng.integers(1, n_items + 1, candidates)
    features = rng.gamma(1, 10, (candidates, FEATURES.dimension)).astype(np.float32)
    arrays = (history, ones, ones, numbers, features, np.zeros(candidates, np.int64))
    return dict(zip(INPUTS, arrays, strict=True))


def zipf_users(users: int, seed: int) -> Callable[[int], str]:
    """Map the number of a request to its user, by Zipf's law."""
    drawn = np.random.default_rng(seed).choice(users, ROUNDS, p=zipf(users, 1.0))
    return lambda i: f"user-{drawn[i]}"


def _median_ms(call: Callable[[int], object]) -> float:
    times = [seconds(partial(call, i)) for i in range(ROUNDS)]
    return 1e3 * float(np.median(times[ROUNDS // 10 :]))


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
