"""What each library takes alone, in this process and this run: the request path cannot be faster than their sum."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.benchmarks.http_floor import bare_server, median_ms
from infra.evaluation.benchmarks.serving_bundle import LENGTH
from infra.evaluation.load.traffic import zipf
from infra.evaluation.timing import seconds
from recsys.bundle import Bundle
from recsys.features.definitions import FEATURES
from recsys.ranking.scorer import INPUTS, RankerSession
from recsys.recall.ann import AnnIndex
from recsys.recall.two_tower import UserTower
from recsys.store.base import FeatureStore

ROUNDS = 200
_CANDIDATES, _RECALLED = 500, 375
_BATCH = 4


def floors(bundle: Bundle, store: FeatureStore, users: int, seed: int) -> dict[str, float]:
    """Median milliseconds of each part on one thread, and their sum."""
    rng = np.random.default_rng(seed)
    index, tower = AnnIndex.load(bundle.file("index.faiss")), UserTower(bundle.file("user_tower.onnx"))
    ranker, n_items = RankerSession(bundle.file("ranker.onnx")), len(index)
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
    index: AnnIndex, tower: UserTower, ranker: RankerSession, n_items: int, rng: np.random.Generator
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
