"""More requests than can be answered: some are refused at once, the others are answered within their deadline."""

import asyncio
import time
from collections.abc import Callable

import httpx

from tests.serving.conftest import Api

STORE_S, DEADLINE_MS, BURST = 0.1, 6_000, 150  # a busy machine may add as much to each request


def test_a_burst_is_refused_in_part_and_what_is_accepted_meets_its_deadline(
    make_api: Callable[..., Api],
) -> None:
    """One thread and a store that takes 100 ms: 150 requests at once would take fifteen seconds."""
    api = make_api(threads=1, deadline_ms=DEADLINE_MS, store_timeout_ms=DEADLINE_MS, max_in_flight=1_000)
    api.recommend()
    read = api.store.inner.user

    def slowly(user_id: str) -> object:
        time.sleep(STORE_S)
        return read(user_id)

    api.store.inner.user = slowly  # type: ignore[method-assign, assignment]
    for _ in range(3):
        api.recommend()
    api.services.admission.work_s = max(
        api.services.admission.work_s, STORE_S
    )  # as after twenty such requests
    answers = asyncio.run(_burst(api))
    refused = [answer for answer in answers if answer.status_code == 503]
    accepted = [answer for answer in answers if answer.status_code == 200]
    assert len(refused) + len(accepted) == BURST
    assert all(answer.headers["retry-after"] == "1" for answer in refused)
    assert refused
    assert len(accepted) >= 2
    assert {reason for answer in accepted for reason in answer.json()["degraded"]} == set()
    assert api.recommend().status_code == 200  # the burst is over


async def _burst(api: Api) -> list[httpx.Response]:
    transport = httpx.ASGITransport(app=api.client.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        return await asyncio.gather(
            *(client.post("/v1/recommendations", json={"user_id": f"u{i}"}) for i in range(BURST))
        )


def test_one_long_pause_is_no_overload_and_lasting_slowness_is(make_api: Callable[..., Api]) -> None:
    admission = make_api().services.admission
    admission.work_s = 0.01
    asyncio.run(admission.compute(time.sleep, 0.5))
    assert admission.work_s < 0.013
    for _ in range(40):
        asyncio.run(admission.compute(time.sleep, 0.05))
    assert admission.work_s > 0.035


def test_nobody_is_refused_while_nothing_waits(make_api: Callable[..., Api]) -> None:
    api = make_api(deadline_ms=1_000)
    api.services.admission.work_s = 60.0  # however slow the last ones were
    assert api.recommend().status_code == 200
    assert api.services.admission.work_s < 60.0
    api.services.admission.work_s, api.services.admission.in_flight = (
        60.0,
        2 * api.services.settings.threads - 1,
    )
    assert api.recommend().status_code == 200
    api.services.admission.work_s, api.services.admission.in_flight = 60.0, 2 * api.services.settings.threads
    assert api.recommend().status_code == 503
