"""Wrong keys wait longer and longer, right ones never, and what is remembered is bounded."""

import asyncio

import pytest

from serving.api import failed_keys
from serving.api.failed_keys import FailedKeys
from serving.problems import Problem


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.woken = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def sleep_until_woken(self, seconds: float) -> None:
        await self.woken.wait()


def test_the_wait_grows_to_a_bound_and_is_forgotten_with_time() -> None:
    async def attack() -> None:
        for _ in range(40):
            await failed.note("192.0.2.1")
        await failed.note("192.0.2.2")  # another client
        waits.extend(clock.slept)
        clock.now += 600
        await failed.note("192.0.2.1")
        assert len(clock.slept) == len(waits)

    clock = Clock()
    failed, waits = FailedKeys(lambda: clock.now, clock.sleep), list[float]()
    asyncio.run(attack())
    assert len(waits) == 40 - failed_keys._FREE
    assert waits == sorted(waits)
    assert waits[-1] == failed_keys._LONGEST_S


def test_only_some_wait_at_a_time_and_the_others_are_refused() -> None:
    async def attack() -> list[object]:
        failed = FailedKeys(lambda: clock.now, clock.sleep_until_woken)
        tries = asyncio.gather(*(failed.note("192.0.2.1") for _ in range(100)), return_exceptions=True)
        await asyncio.sleep(0)
        await failed.note("192.0.2.2")  # not held up by them
        clock.woken.set()
        results: list[object] = list(await tries)
        assert not failed._waiting
        return results

    clock = Clock()
    results = asyncio.run(attack())
    refused = [result for result in results if isinstance(result, Problem)]
    assert len(refused) == 100 - failed_keys._FREE - failed_keys._WAITING
    assert {problem.status for problem in refused} == {429}
    assert {problem.headers["retry-after"] for problem in refused} == {"3"}


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_keys, "_CLIENTS", 5)
    failed = FailedKeys()

    async def attack() -> None:
        for number in range(50):
            await failed.note(f"192.0.2.{number}")

    asyncio.run(attack())
    assert list(failed._failed) == [f"192.0.2.{number}" for number in range(45, 50)]
