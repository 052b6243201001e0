"""The console reranks on the device: before the server has answered, offline, and never without saying so."""

import re
import time
from base64 import b64decode, b64encode
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from infra.evaluation.benchmarks.edge import EdgeBench, in_browser
from recsys.deltas import delta
from recsys.models.encoding import gap_buckets
from serving.api.console_files import RUNTIME
from tests.serving.browser.test_console import titles
from tests.serving.waiting import eventually

pytestmark = [
    pytest.mark.browser,
    pytest.mark.kafka,
    pytest.mark.redis,
    pytest.mark.slow,
    pytest.mark.skipif(not RUNTIME.is_dir(), reason="onnxruntime-web is missing: make edge-runtime"),
]


def opened(page: Page, user: str) -> list[str]:
    """The feed of a user, on a device that is ready. The titles of its list."""
    page.goto(f"/#/feed?user={user}")
    expect(page.locator(".list > li")).to_have_count(12)
    page.get_by_label("Rerank on this device").check()
    expect(page.get_by_text("This device reranks")).to_be_visible(timeout=60_000)  # it compiles 14 MB
    return titles(page)


def click(page: Page, title: str) -> None:
    page.get_by_role("button", name=f"Click {title}", exact=True).click()


def test_this_device_reranks_before_the_server_has_answered(page: Page) -> None:
    before, held = opened(page, "device-1"), list[Route]()
    page.route("**/v1/events", lambda route: held.append(route))
    click(page, before[2])
    expect(page.locator(".said")).to_have_text(
        re.compile(r"Reranked on this device in [\d.]+ ms; the server has not")
    )
    reranked = titles(page)
    assert before[2] not in reranked
    assert len(reranked) == 12
    assert reranked[:11] != [title for title in before if title != before[2]]
    held[0].continue_()
    expect(page.locator(".said")).to_contain_text("through Kafka and Redis")
    assert before[2] not in titles(page)


def test_the_bench_measures_a_device_and_its_scores_are_the_servers(context: BrowserContext) -> None:
    page = context.new_page()  # its console notes that there is no network
    page.goto("/#/models")
    figures = in_browser(page, EdgeBench(lists=2, acts=3))
    assert figures["reranks"] == 6
    assert 0 < figures["largest_difference"] <= 1e-4
    assert figures["offline_pages"] == figures["candidates"] // 12 == 3
    assert figures["rerank_p99_ms"] > figures["rerank_in_worker_p50_ms"] > 0
    assert figures["list_bytes_per_100"] > 0


def test_it_works_offline_and_sends_what_was_done_afterwards(context: BrowserContext) -> None:
    page = context.new_page()  # its console notes that there is no network
    before = opened(page, "device-3")
    context.set_offline(True)
    click(page, before[0])
    expect(page.locator(".said")).to_contain_text("The API is away: 1 of your actions wait for it.")
    page.get_by_role("button", name="Next page, from this device").click()
    second = titles(page)
    assert not {*second} & {*before[:1]}
    click(page, second[1])
    expect(page.locator(".said")).to_contain_text("2 of your actions wait")
    assert not {before[0], second[1]} & {*titles(page)}
    with page.expect_response(
        lambda response: response.url.endswith("/v1/events") and response.status == 202
    ):
        context.set_offline(False)
        page.evaluate("dispatchEvent(new Event('online'))")


def test_without_a_model_the_servers_order_stays_and_says_so(page: Page) -> None:
    page.route("**/v1/edge/**", lambda route: route.fulfill(status=404, json={"detail": "no such model"}))
    page.goto("/#/feed?user=device-4")
    page.get_by_label("Rerank on this device").check()
    expect(page.get_by_text("In the server's order: no such model.")).to_be_visible()
    before = titles(page)
    page.route("**/v1/events", lambda route: None)
    click(page, before[0])
    assert titles(page) == before


def test_without_the_runtime_the_console_says_what_to_do(context: BrowserContext) -> None:
    page = context.new_page()  # its console notes the missing file
    page.route("**/vendor/onnxruntime-web-*/*.mjs", lambda route: route.fulfill(status=404))
    page.goto("/#/feed?user=device-6")
    page.get_by_label("Rerank on this device").check()
    expect(
        page.get_by_text("In the server's order: onnxruntime-web is not there; `make edge-runtime`")
    ).to_be_visible()


def test_a_list_whose_scores_the_device_does_not_compute_stays_in_the_servers_order(page: Page) -> None:
    def spoil(route: Route) -> None:
        answer = route.fetch().json()
        if "edge" in answer:
            scores = np.frombuffer(b64decode(answer["edge"]["scores"]), np.float32) + np.float32(0.001)
            answer["edge"]["scores"] = b64encode(scores.tobytes()).decode()
        route.fulfill(json=answer)

    page.route("**/v1/recommendations?*", spoil)
    page.goto("/#/feed?user=device-5")
    page.get_by_label("Rerank on this device").check()
    differ = "In the server's order: the scores of this device differ from the server's by 0.0010."
    expect(page.get_by_text(differ)).to_be_visible(timeout=60_000)


def test_a_device_that_has_an_earlier_model_downloads_the_delta(page: Page) -> None:
    manifest = page.request.get("/v1/edge/manifest").json()
    model = page.request.get(f"/v1/edge/model/{manifest['model']}").body()
    earlier = bytes((byte + 250) % 256 for byte in model)
    version, change = sha256(earlier).hexdigest(), delta(earlier, model)
    manifest["deltas"] = {version: {"bytes": len(change), "sha256": sha256(change).hexdigest()}}
    page.route("**/v1/edge/manifest?*", lambda route: route.fulfill(json=manifest))
    page.route(f"**/v1/edge/delta/{version}/*", lambda route: route.fulfill(body=change))
    page.route("**/v1/edge/model/*", lambda route: route.abort())
    page.goto("/#/feed?user=device-7")
    script = """async ([path, text]) => {
      const content = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
      await (await caches.open("recsys-edge")).put(path, new Response(content));
    }"""
    page.evaluate(script, [f"/v1/edge/model/{version}", b64encode(earlier).decode()])
    page.get_by_label("Rerank on this device").check()
    expect(page.get_by_text(f"model: {len(change)} bytes downloaded")).to_be_visible(timeout=60_000)


def test_the_history_after_an_act_is_the_one_that_the_server_has_when_it_knows_the_act(page: Page) -> None:
    """From an empty history, then from one with an event."""
    user, type_numbers = "device-8", page.request.get("/v1/edge/manifest").json()["types"]
    page.goto("/#/models")

    def listed() -> dict[str, Any]:
        asked = {"user_id": user, "k": 3, "edge": True}
        found: dict[str, Any] = page.request.post("/v1/recommendations", data=asked).json()["edge"]
        return found

    script = """async ([edge, act]) => {
      const { decode, withActs } = await import('/static/edge/list.js');
      const { rows, scales, types, gaps } = withActs(decode(edge), [act], 50, act.atMs);
      return { rows: [...rows], scales: [...scales], types, gaps };
    }"""
    for events, seconds_ago in ((1, 100), (2, 0)):
        before, at_ms = listed(), time.time_ns() // 1_000_000 - 1_000 * seconds_ago
        item = before["items"][4]["item_id"]
        act = {"place": 4, "type": type_numbers["like"], "atMs": at_ms}
        found = page.evaluate(script, [before, act])
        event = {"type": "like", "user_id": user, "item_id": item, "event_time_ms": at_ms}
        assert page.request.post("/v1/events", data=event).status == 202
        eventually(lambda: listed()["history"]["newest_ms"] == at_ms)  # noqa: B023 - called at once
        after = listed()["history"]
        assert found["rows"] == np.frombuffer(b64decode(after["rows"]), np.int16).tolist()
        assert found["scales"] == np.frombuffer(b64decode(after["scales"]), np.float32).tolist()
        assert found["types"] == after["types"] == [act["type"]] * events
        assert found["gaps"][:-1] == after["gaps"][:-1]  # the newest is as old as the list
        assert found["gaps"][-1] == 1


def test_the_script_knows_gaps_as_the_server_does(page: Page) -> None:
    page.goto("/")
    seconds = [0, 0.999, 1, 2, 3, 4, 3_599, 3_600, 2**30 - 2, 2**30 - 1, 2**31, 2**35]
    times = [int(1_000 * s) for s in seconds]
    script = """async (times) => {
      const { gapBucket } = await import('/static/edge/list.js');
      return times.map((time) => gapBucket(0, time));
    }"""
    wanted = gap_buckets(np.zeros(len(times), np.int64), np.array(times)).tolist()
    assert page.evaluate(script, times) == wanted
