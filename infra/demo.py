"""The whole loop once, by the commands that a user would type, and the clicks that change the list.

fetch and import → the newest examples with Spark → a first bundle → serve → request, click three times, request again;
meanwhile the log goes through Kafka into Redis. Then everything is built and trained in full, and the better bundle is
swapped in. Every step is its own `recsys` process; all of them stop on exit.
"""

import contextlib
import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from infra.local.children import Children
from infra.local.process import free_port
from infra.local.services import embedded
from infra.terminal import console
from recsys.contracts.errors import Unavailable
from recsys.contracts.events import new_id
from recsys.contracts.types import EventType, Topic
from recsys.features.definitions import FEATURES
from recsys.lake.lake import EVENTS, count_rows, days, read_day
from recsys.settings import Settings
from recsys.store.base import FeatureStore, StoreConfig
from recsys.store.redis import RedisFeatureStore

CLICKS = 3
LIST_LENGTH = 10
CHANGE_TIMEOUT_S = 30.0
CATCH_UP_TIMEOUT_S = 1_800.0
DATA_SET = "movielens-100k"
NEWEST = 10_000  # events whose examples the first bundle is trained on
# Enough to beat popularity by far, in minutes on two cores. The defaults of `recsys train all` are longer.
RECALL_EPOCHS, RANK_EPOCHS = 8, 2
RECALL_EVENTS = 1_000_000  # events per training, over all epochs
# Deleted at the start of a run; downloaded data sets stay.
RECREATED = ("lake", "features", "work", "checkpoints", "bundles", "redis", "spool", "run", "logs")
ENGAGED = frozenset({EventType.CLICK, EventType.RATING, EventType.PURCHASE, EventType.LIKE})


@dataclass
class Outcome:
    """What the demo measured: seconds and counts per step, both lists, milliseconds from click to change."""

    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    user: str = ""
    clicked: list[dict[str, Any]] = field(default_factory=list)
    before: list[dict[str, Any]] = field(default_factory=list)
    after: list[dict[str, Any]] = field(default_factory=list)
    change_ms: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        console.rule(f"[bold]{name}", align="left")
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 2)
        console.print(f"[green]✓[/] {name}: {self.seconds[name]:.1f} s")


@dataclass(frozen=True)
class Api:
    """The HTTP requests of the demo."""

    url: str

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2.0).status_code == 200
        except httpx.HTTPError:
            return False

    def recommend(self, user: str, k: int = LIST_LENGTH) -> list[dict[str, Any]]:
        """Request until the list is not degraded: a degraded one would differ for other reasons than the clicks."""
        deadline = time.monotonic() + CHANGE_TIMEOUT_S
        while time.monotonic() < deadline:
            response = httpx.post(
                f"{self.url}/v1/recommendations", json={"user_id": user, "k": k}, timeout=10.0
            ).raise_for_status()
            answer = response.json()
            if not answer["degraded"]:
                items: list[dict[str, Any]] = answer["items"]
                return items
        raise Unavailable(f"the API's answers stay degraded: {', '.join(answer['degraded'])}")

    def send(self, events: Sequence[Mapping[str, Any]]) -> None:
        httpx.post(f"{self.url}/v1/events", json={"events": events}, timeout=10.0).raise_for_status()


def busy_user(settings: Settings) -> str:
    """The median of the last day's users by number of engaged events."""
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


def epochs(events: int) -> tuple[str, ...]:
    """Options of `recsys train all` that limit training to minutes, whatever the number of events."""
    recall = max(1, min(RECALL_EPOCHS, RECALL_EVENTS // max(events, 1)))
    return "--recall-epochs", str(recall), "--rank-epochs", str(RANK_EPOCHS)


def serve(children: Children, port: int = 0) -> Api:
    """Start the API and wait until it is ready."""
    api = Api(f"http://127.0.0.1:{port or free_port()}")
    children.start("api", "serve", "--port", api.url.rsplit(":", 1)[1])
    children.wait("api", api.ready, timeout_s=60.0)
    return api


def _applied(store: FeatureStore, settings: Settings) -> int:
    """Number of records of the topic `events` that the worker has applied."""
    checkpoints = (store.checkpoint(Topic.EVENTS, p) for p in range(settings.partitions))
    return sum(c.offset for c in checkpoints if c)


def run_demo(
    data: Path | None, mapping: Path | None, once: bool, port: int, show: Callable[[Outcome, str], None]
) -> None:
    """Run all steps in `<home>/demo`. `show` gets the measurements and the API's address."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: stop everything
    settings = Settings().model_copy(update={"home": Settings().home / "demo"})
    for name in RECREATED:
        shutil.rmtree(settings.home / name, ignore_errors=True)
    outcome = Outcome()
    with embedded(settings, fresh=True) as services:
        environ = {"RECSYS_HOME": str(settings.home), **services.environ()}
        with Children(settings.home / "logs", environ) as children:
            began = time.monotonic()
            _import(children, settings, outcome, data, mapping)
            _first_bundle(children, settings, outcome, services.redis_url)
            with outcome.step("serve"):
                api = serve(children, 0 if once else port)
            with outcome.step("click and watch"):
                click_and_watch(api, busy_user(settings), outcome)
            outcome.seconds["all of it"] = round(time.monotonic() - began, 2)
            show(outcome, api.url)
            if not once:
                with contextlib.suppress(KeyboardInterrupt):
                    _in_full(children, outcome)
                    _until_interrupted(api)


def _import(
    children: Children, settings: Settings, outcome: Outcome, data: Path | None, mapping: Path | None
) -> None:
    if data is None:
        with outcome.step(f"fetch {DATA_SET}"):
            children.run("data", "fetch", DATA_SET)
        data = settings.home / "datasets" / "ml-100k"
    with outcome.step(f"import {data}"):
        options = ("--mapping", str(mapping)) if mapping else ()
        children.run("data", "import", str(data), "--shift-to-now", *options)
    report = json.loads((settings.lake / "import-report.json").read_text(encoding="utf-8"))
    outcome.counts["events imported"] = count_rows(settings.lake)
    outcome.counts["import"] = report


def _first_bundle(children: Children, settings: Settings, outcome: Outcome, redis_url: str) -> None:
    """Train on the newest events, while the whole log goes through Kafka into Redis."""
    records = count_rows(settings.lake)
    store = RedisFeatureStore(
        redis_url, FEATURES, StoreConfig(partitions=settings.partitions), settings.redis_namespace
    )
    children.start("worker", "stream", "worker")
    children.start("replay", "stream", "replay", "--speed", "0")
    try:
        with outcome.step("build the newest examples with Spark"):
            children.run("features", "build", "--newest", str(NEWEST))
        with outcome.step("train a first bundle and publish it"):
            children.run("train", "all", "--first")
        with outcome.step("replay through Kafka into Redis: what was left of it"):
            children.finish("replay", CATCH_UP_TIMEOUT_S)
            children.wait("worker", lambda: _applied(store, settings) >= records, CATCH_UP_TIMEOUT_S)
    finally:
        store.close()
    outcome.counts["events applied"] = records


def _in_full(children: Children, outcome: Outcome) -> None:
    """Build and train everything; the API serves meanwhile, and then swaps the better bundle in."""
    children.start("archive", "stream", "archive")
    with outcome.step("build all examples with Spark"):
        children.run("features", "build")
    with outcome.step("train both models in full and publish them"):
        children.run("train", "all", *epochs(outcome.counts["events imported"]))
    console.print("the API has swapped the better bundle in; it serves until Ctrl-C")


def _until_interrupted(api: Api) -> None:
    while api.ready():
        time.sleep(1.0)
    raise Unavailable(f"the API at {api.url} is no longer ready; its log is in the logs folder of the demo")
