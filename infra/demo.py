"""The whole loop once, by the same commands that a user would type, and the click that changes the list.

fetch and import → replay through Kafka (worker → Redis, archiver → lake) → Spark features → train → publish → serve
→ ask, click three times, ask again. Every step is a `recsys` process of its own; leaving stops them all.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from infra.console import console
from infra.local.process import free_port
from infra.processes import Children
from recsys.events import new_id
from recsys.lake import EVENTS, days, read_day
from recsys.settings import Settings
from recsys.types import EventType

CLICKS = 3
ASK = 10  # items in the lists that the demo shows
CHANGE_TIMEOUT_S = 30.0
ENGAGED = frozenset({EventType.CLICK, EventType.RATING, EventType.PURCHASE, EventType.LIKE})


@dataclass
class Outcome:
    """What the demo measured: seconds and counts of every step, both lists, milliseconds from click to change."""

    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    user: str = ""
    clicked: list[dict[str, Any]] = field(default_factory=list)
    before: list[dict[str, Any]] = field(default_factory=list)
    after: list[dict[str, Any]] = field(default_factory=list)
    change_ms: float = 0.0

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        console.rule(f"[bold]{name}", align="left")
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 2)
        console.print(f"[green]✓[/] {name}: {self.seconds[name]:.1f} s")


@dataclass(frozen=True)
class Api:
    """The few requests that the demo sends, over HTTP like anybody's."""

    url: str

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2.0).status_code == 200
        except httpx.HTTPError:
            return False

    def recommend(self, user: str, k: int = ASK) -> list[dict[str, Any]]:
        response = httpx.post(
            f"{self.url}/v1/recommendations", json={"user_id": user, "k": k}, timeout=10.0
        ).raise_for_status()
        items: list[dict[str, Any]] = response.json()["items"]
        return items

    def send(self, events: Sequence[Mapping[str, Any]]) -> None:
        httpx.post(f"{self.url}/v1/events", json={"events": events}, timeout=10.0).raise_for_status()


def busy_user(settings: Settings) -> str:
    """A user of the last day whose history is long enough to have a taste: the median of the active ones."""
    last_day = days(settings.lake)[-1]
    rows = read_day(settings.lake, last_day, EVENTS, columns=("user_id", "type"))
    active: Counter[str] = Counter(
        user
        for user, kind in zip(rows["user_id"].to_pylist(), rows["type"].to_pylist(), strict=True)
        if kind in ENGAGED
    )
    ranked = [user for user, _ in active.most_common()]
    return ranked[len(ranked) // 2]


def click_and_watch(api: Api, user: str, outcome: Outcome) -> None:
    """Ask, click three items of one category, ask until the answer has changed; fill in `outcome`."""
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
            break
    outcome.change_ms = round((time.perf_counter() - started) * 1000, 1)


def _of_one_category(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Up to three items of the list's commonest category."""
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


def wait_until(done: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Poll until `done()`.

    Raises:
        TimeoutError: naming `what`.
    """
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(0.1)


def serve(children: Children, port: int = 0) -> Api:
    """Start the API and wait until it can answer."""
    api = Api(f"http://127.0.0.1:{port or free_port()}")
    children.start("api", "serve", "--port", api.url.rsplit(":", 1)[1])
    children.wait("api", api.ready, timeout_s=60.0)
    return api
