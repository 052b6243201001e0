"""`recsys demo`: the loop on MovieLens-100K or on your data, and three clicks that change a list."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from infra.loop import EXTRAS, Api, Outcome, busy_user, started
from recsys.contracts.errors import Unavailable
from recsys.contracts.events import new_id
from recsys.extras import require

CLICKS = 3
CHANGE_TIMEOUT_S = 30.0
DATA_SET = "movielens-100k"


def click_and_watch(api: Api, user: str, outcome: Outcome) -> None:
    """Request, click three items of one category, request until the list has changed; fill in `outcome`.

    Raises:
        Unavailable: the list does not change.
    """
    outcome.user = user
    outcome.before = api.recommend(user)
    outcome.clicked = _of_one_category(outcome.before)
    started = time.perf_counter()
    api.send([_click(user, item["item_id"]) for item in outcome.clicked])
    shown = [item["item_id"] for item in outcome.before]
    deadline = time.monotonic() + CHANGE_TIMEOUT_S
    while time.monotonic() < deadline:
        outcome.after = api.recommend(user)
        if [item["item_id"] for item in outcome.after] != shown:
            outcome.change_ms = round((time.perf_counter() - started) * 1000, 1)
            return
    raise Unavailable(f"the list is the same {CHANGE_TIMEOUT_S:.0f} s after the clicks: `recsys status`")


def _of_one_category(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Up to three items of the list's most frequent category."""
    common = Counter(category for item in items for category in item.get("categories", ())).most_common(1)
    chosen = [item for item in items if common and common[0][0] in item.get("categories", ())]
    return (chosen or list(items))[:CLICKS]


def _click(user: str, item: str) -> dict[str, Any]:
    return {
        "event_id": new_id(),
        "type": "click",
        "user_id": user,
        "item_id": item,
        "event_time_ms": time.time_ns() // 1_000_000,
    }


def run_demo(
    data: Path | None, mapping: Path | None, once: bool, port: int, show: Callable[[Outcome, str], None]
) -> None:
    """Run all steps in `<home>/demo`. `show` gets the measurements and the API's address."""
    require(*EXTRAS)
    with started("demo") as loop:
        outcome, began = loop.outcome, time.monotonic()
        if data is None:
            with outcome.step(f"fetch {DATA_SET}"):
                loop.children.run("data", "fetch", DATA_SET)
        loop.import_data(data or loop.settings.home / "datasets" / "ml-100k", mapping)
        loop.first_bundle()
        api = loop.serve(0 if once else port)
        with outcome.step("click and watch"):
            click_and_watch(api, busy_user(loop.settings), outcome)
        outcome.seconds["all of it"] = round(time.monotonic() - began, 2)
        show(outcome, api.url)
        if not once:
            loop.improve(api)
