"""Micro-batches: everybody gets their own answer, nobody waits alone, an error reaches all of its batch."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.recall.two_tower import UserTower
from serving.caching.batching import MicroBatcher
from serving.engine.user_vectors import CachedUserTower
from tests.bundles import tiny_vectors, user_tower


def test_a_caller_who_is_alone_does_not_wait() -> None:
    clock = iter(range(0, 1_000, 100))  # a call every hundred seconds
    batcher: MicroBatcher[int, int] = MicroBatcher(
        lambda xs: [10 * x for x in xs], 8, max_wait_s=60.0, clock=lambda: float(next(clock))
    )
    assert [batcher.call(x) for x in range(5)] == [0, 10, 20, 30, 40]  # with a wait: five minutes
    assert (batcher.batches, batcher.calls) == (5, 5)


def test_calls_that_come_together_are_one_batch_and_a_full_one_goes_at_once() -> None:
    sizes: list[int] = []
    together = threading.Barrier(4)

    def run(xs: Sequence[int]) -> list[int]:
        sizes.append(len(xs))
        return [x + 1 for x in xs]

    batcher = MicroBatcher(run, 4, max_wait_s=30.0, clock=lambda: 0.0)  # no gaps: others are expected

    def ask(x: int) -> int:
        together.wait()
        return batcher.call(x)

    for x in range(7):  # until the mean gap, at first that of an idle process, is below the wait
        batcher.call(x)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ask, range(4))) == [1, 2, 3, 4]
    assert sizes == [*[1] * 7, 4]


def test_more_than_a_batch_is_answered_in_several() -> None:
    batcher: MicroBatcher[int, int] = MicroBatcher(lambda xs: [x + 1 for x in xs], 2, 0.05, lambda: 0.0)
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(batcher.call, range(100))) == list(range(1, 101))
    assert batcher.calls == 100
    assert batcher.batches >= 50


def test_an_error_reaches_its_batch_and_the_next_one_is_tried() -> None:
    def run(xs: Sequence[int]) -> list[int]:
        if 7 in xs:
            raise ZeroDivisionError
        return list(xs)

    batcher = MicroBatcher(run, 1)
    with pytest.raises(ZeroDivisionError):
        batcher.call(7)
    assert batcher.call(8) == 8


def test_batched_user_vectors_are_those_of_the_tower(tmp_path: Path) -> None:
    items = tiny_vectors(30)
    model = user_tower(items)
    plain, batched = UserTower(model, items), CachedUserTower(model, items, 0, batch=4, wait_s=0.05)
    histories = [np.random.default_rng(i).integers(0, 31, (1, 5)) for i in range(40)]

    def ask(history: NDArray[np.int64]) -> NDArray[np.float32]:
        return batched.vectors(history, np.ones_like(history), np.ones_like(history))

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(ask, histories))
    for history, vector in zip(histories, found, strict=True):
        other = np.ones_like(history)
        np.testing.assert_allclose(vector, plain.vectors(history, other, other), rtol=1e-5, atol=1e-6)
