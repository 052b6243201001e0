"""What a person does in the console: click and see the list change, read the funnel, switch a bundle, enter a key."""

import os
import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from infra.loop import Api
from recsys.features.definitions import FEATURES

pytestmark = [pytest.mark.browser, pytest.mark.kafka, pytest.mark.redis, pytest.mark.slow]

VIEWS = ("feed", "funnel", "system", "release", "models")
WIDTHS = (390, 820, 1440)
SCREENSHOTS = os.environ.get("SCREENSHOTS")  # a folder: pictures of every view for people to look at


def titles(page: Page) -> list[str]:
    return page.locator(".list .title strong").all_inner_texts()


def test_a_click_changes_the_list_and_the_console_says_when(page: Page) -> None:
    page.goto("/#/feed?user=newcomer")
    expect(page.locator(".list > li")).to_have_count(12)
    expect(page.get_by_text("This user is new")).to_be_visible()
    before = titles(page)

    page.get_by_role("button", name=f"Click {before[3]}", exact=True).click()

    status = page.locator(".said").first
    expect(status).to_contain_text("after your click, through Kafka and Redis")
    assert 'unproven_events_total{why="' not in page.request.get("/metrics").text(), (
        "it sent the item's token"
    )
    expect(status).to_have_text(re.compile(r"The list changed: .*\d+ ms|The list changed: .*[\d.]+ ms"))
    after = titles(page)
    assert after != before
    assert before[3] not in after
    assert page.locator(".move").count() > 0
    expect(page.locator(".history")).to_contain_text(before[3])


def test_what_does_not_change_the_list_says_so(page: Page) -> None:
    page.goto("/#/feed?user=dweller")
    page.get_by_role("button", name=re.compile("^Dwell 30 s")).first.click()
    expect(page.locator(".said").first).to_contain_text("is accepted")


def test_another_user_is_one_enter_away_by_keyboard(page: Page) -> None:
    page.goto("/")
    expect(page.locator(".list > li")).to_have_count(12)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.get_by_label("User", exact=True).fill("somebody else")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"user=somebody%20else"))
    page.get_by_role("button", name="New user").click()
    expect(page).to_have_url(re.compile(r"user=guest-"))


def test_the_funnel_shows_stages_scores_and_what_speaks_for_an_item(page: Page) -> None:
    page.goto("/#/funnel?user=someone")
    expect(page.get_by_role("heading", name="Funnel")).to_be_visible()
    waterfall = page.get_by_role("region", name="Stages of the request in order")
    for stage in ("two tower", "popular", "merge", "features", "seen", "rank", "rerank", "impression log"):
        expect(waterfall.get_by_role("rowheader", name=stage, exact=True)).to_be_visible()
    items = page.get_by_role("region", name="Shown items with their ranks and scores")
    second = items.get_by_role("button").nth(1)
    second.click()
    expect(second).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("heading", name=f"Why {second.inner_text()}")).to_be_visible()
    shares = page.get_by_role("region", name="Contributions of features to the score")
    assert shares.locator("tbody tr").count() > 3
    page.get_by_role("button", name=re.compile("All .* features")).click()
    expect(shares.locator("tbody tr")).to_have_count(
        len(FEATURES.features) + 2
    )  # and the history, and the item


def test_a_bundle_is_switched_from_the_system_view(page: Page) -> None:
    page.goto("/#/system")
    bundles = page.get_by_role("region", name="Bundles with their metrics")
    bundles.get_by_role("button", name="Activate v2").click()
    expect(page.get_by_text("v2 is active now; before, it was v1.")).to_be_visible()
    bundles.get_by_role("button", name="Activate v1").click()
    expect(page.get_by_text("v1 is active now; before, it was v2.")).to_be_visible()
    expect(page.get_by_role("region", name="Progress of the feature workers")).to_contain_text("events")


def test_arms_are_shown_with_their_outcomes_and_intervals(page: Page) -> None:
    page.goto("/#/system")
    arms = page.get_by_role("region", name="Arms of diversity", exact=True)
    treated = arms.get_by_role("row").filter(has=page.get_by_role("rowheader", name="dpp", exact=True))
    expect(treated).to_contain_text(re.compile(r"\d+ %.*… .*%.*\[.*%\]"), timeout=60_000)
    expect(arms).to_contain_text("control")
    expect(
        page.get_by_role("img", name=re.compile("^CTR of each arm over time.*control .*%, dpp .*%"))
    ).to_be_visible()
    page.get_by_role("combobox", name="Metric").select_option("dwell_per_session_s")
    expect(arms.get_by_role("columnheader", name="dwell per session s")).to_be_visible()
    expect(page.get_by_text("seconds of reading in a session")).to_be_visible()
    # the other experiment, which is read after this one
    expect(page.get_by_text("None of its users is in the lake yet")).to_be_visible(timeout=60_000)


def test_a_click_is_in_the_freshness_of_the_workers(page: Page) -> None:
    page.goto("/#/system")
    workers = page.get_by_role("region", name="Feature workers, by their own reports")
    expect(workers.get_by_role("rowheader")).to_have_count(1)
    page.request.post("/v1/events", data={"type": "click", "user_id": "fresh", "item_id": "item-003"})
    took = page.get_by_role("region", name="Batches by how long they took")
    expect(took.get_by_role("rowheader").first).to_have_text(re.compile(r"ms|s$"))
    expect(page.locator("#fresh-title").locator("xpath=../..")).to_contain_text(
        re.compile(r"p50 .* ms, p99 .* ms")
    )


def test_the_release_says_how_far_it_came_and_why_it_ended(page: Page) -> None:
    page.goto("/#/release")
    expect(page.get_by_role("heading", name="v2 against v1")).to_be_visible()
    stages = page.get_by_role("list", name="Stages of the release")
    expect(stages.get_by_role("listitem")).to_have_text(["trained", "gated", "shadow", "1 %", "rolled back"])
    expect(stages.locator("[aria-current=step]")).to_have_text("rolled back")
    guardrails = page.get_by_role("region", name="Guardrails of the canary", exact=True)
    expect(guardrails.locator("tbody tr").first).to_have_text("CTR< 0.001")
    gate = page.get_by_role("region", name="Checks of the offline gate")
    expect(gate.get_by_role("row").filter(has_text="click AUC")).to_contain_text("passed")
    log = page.get_by_role("region", name="Stages of all releases")
    expect(log.locator("tbody tr")).to_have_count(5)
    expect(log.locator("tbody tr").first).to_contain_text("harm: ctr (p 0.0004)")


def test_data_and_models_show_what_the_commands_have_left(page: Page) -> None:
    page.goto("/#/models")
    expect(page.get_by_role("heading", name="Data: tiny")).to_be_visible()
    expect(page.get_by_role("img", name="Events by day: click, like")).to_be_visible()
    expect(page.get_by_role("img", name="Training of ranker by epoch: score")).to_be_visible()
    ladder = page.get_by_role("region", name="Size, speed and quality of each variant")
    expect(ladder.get_by_role("rowheader")).to_have_text(["teacher", "int8"])
    recall = page.get_by_role("region", name="Hit rate at 10 by model and slice")
    expect(recall.get_by_role("columnheader")).to_have_text(["model", "all", "", "new users"])
    expect(recall.get_by_role("rowheader")).to_have_text(["two tower", "ease"])


def test_nothing_is_shown_while_nothing_is_known(page: Page) -> None:
    page.route(
        "**/v1/models", lambda route: route.fulfill(status=200, body="null", content_type="application/json")
    )
    page.goto("/#/models")
    expect(page.get_by_text("Reading the home folder")).to_be_visible()


def test_without_the_api_the_page_says_what_to_do(browser: Browser, api: Api) -> None:
    opened = browser.new_context(base_url=api.url).new_page()
    opened.route("**/v1/**", lambda route: route.abort())
    opened.goto("/")
    expect(opened.get_by_role("alert").first).to_contain_text("Is `recsys serve` running?")
    opened.unroute("**/v1/**")
    opened.get_by_role("button", name="Try again").first.click()
    expect(opened.locator(".list > li")).to_have_count(12)
    opened.context.close()


def test_an_api_with_keys_asks_for_one(browser: Browser, api: Api) -> None:
    opened = browser.new_context(base_url=api.url).new_page()
    body = '{"status": 401, "detail": "send a valid API key", "request_id": "r"}'

    def answer(route: object) -> None:
        if "x-api-key" in route.request.headers:  # type: ignore[attr-defined]
            route.continue_()  # type: ignore[attr-defined]
        else:
            route.fulfill(status=401, body=body, content_type="application/problem+json")  # type: ignore[attr-defined]

    opened.route("**/v1/**", answer)
    opened.goto("/")
    dialog = opened.get_by_role("dialog", name="This API asks for a key")
    expect(dialog).to_contain_text("send a valid API key")
    dialog.get_by_label("API key").fill("rk_page_secret")
    dialog.get_by_role("button", name="Use this key").click()
    expect(opened.locator(".list > li")).to_have_count(12)
    opened.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_no_serious_accessibility_violation(browser: Browser, api: Api, view: str, scheme: str) -> None:
    context = browser.new_context(base_url=api.url, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    settled(page, view)
    found = Axe().run(page)
    serious = [v for v in found.response["violations"] if v["impact"] in ("serious", "critical")]
    context.close()
    assert not serious, [(v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in serious]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("width", WIDTHS)
def test_no_view_is_wider_than_the_screen(browser: Browser, api: Api, view: str, width: int) -> None:
    context = browser.new_context(base_url=api.url, viewport={"width": width, "height": 900})
    page = context.new_page()
    settled(page, view)
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / f"{view}-{width}.png", full_page=True)
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    context.close()
    assert overflow <= 0


def settled(page: Page, view: str) -> None:
    """Open a view and wait until it has its content."""
    page.goto(f"/#/{view}?user=someone")
    expect(page.locator("h1")).to_have_count(1)
    wanted = {
        "feed": ".list > li",
        "funnel": ".waterfall tbody tr",
        "system": "#bundles-title ~ *, .panel table",
        "release": "#history-title",
        "models": ".panel",
    }
    expect(page.locator(wanted[view]).first).to_be_visible()
