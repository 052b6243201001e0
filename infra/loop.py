"""The steps of the loop, by the commands that a user would type; `recsys demo` and `recsys quickstart` share them.

import → the newest examples with Spark → a first bundle → serve; meanwhile the log goes through Kafka into Redis. Then
everything is built and trained in full, and the better bundle is swapped in. Every step is its own `recsys` process;
all of them stop on exit.
"""

import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from infra.local.children import Children
from infra.local.process import free_port
from infra.local.services import embedded
from infra.terminal import console
from recsys.contracts.errors import InvalidData, Unavailable
from recsys.contracts.types import EventType, Topic
from recsys.features.definitions import FEATURES
from recsys.lake.lake import EVENTS, count_rows, days, read_day
from recsys.settings import Settings
from recsys.store.base import FeatureStore, StoreConfig
from recsys.store.redis import RedisFeatureStore
from training.choices import QUICK_RANK_EPOCHS, first_sizes, quick_epochs

LIST_LENGTH = 10
WHOLE_TIMEOUT_S = 30.0  # until a list is not degraded
CATCH_UP_TIMEOUT_S = 1_800.0
EXTRAS = ("train", "spark")  # what the steps need
# Deleted at the start of a run; downloaded data sets stay.
RECREATED = ("lake", "features", "work", "checkpoints", "bundles", "redis", "spool", "run", "logs")
ENGAGED = frozenset({EventType.CLICK, EventType.RATING, EventType.PURCHASE, EventType.LIKE})


@dataclass
class Outcome:
    """What a run measured: seconds and counts per step, both lists, milliseconds from click to change."""

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
    """The requests of these commands."""

    url: str

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2.0).status_code == 200
        except httpx.HTTPError:
            return False

    def recommend(self, user: str, k: int = LIST_LENGTH) -> list[dict[str, Any]]:
        """Request until the list is not degraded: a degraded one would differ for other reasons than the clicks."""
        deadline = time.monotonic() + WHOLE_TIMEOUT_S
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
    """The median of the users by number of engaged events, of the last day that has any.

    Raises:
        InvalidData: nobody has clicked, bought, liked or rated anything.
    """
    for day in reversed(days(settings.lake)):
        rows = read_day(settings.lake, day, EVENTS, columns=("user_id", "type"))
        active = Counter[str](
            user
            for user, kind in zip(rows["user_id"].to_pylist(), rows["type"].to_pylist(), strict=True)
            if kind in ENGAGED
        )
        if ranked := [user for user, _ in active.most_common()]:
            return ranked[len(ranked) // 2]
    raise InvalidData(f"{settings.lake}: nobody has clicked, bought, liked or rated anything")


def epochs(events: int) -> tuple[str, ...]:
    """Options of `recsys train all` that limit training to minutes."""
    return "--recall-epochs", str(quick_epochs(events)), "--rank-epochs", str(QUICK_RANK_EPOCHS)


def serve(children: Children, port: int = 0) -> Api:
    """Start the API and wait until it is ready."""
    api = Api(f"http://127.0.0.1:{port or free_port()}")
    children.start("api", "serve", "--port", api.url.rsplit(":", 1)[1])
    children.wait("api", api.ready, timeout_s=60.0)
    return api


@dataclass(frozen=True)
class Loop:
    """A run in `settings.home`, whose servers are up."""

    settings: Settings
    children: Children
    redis_url: str
    outcome: Outcome = field(default_factory=Outcome)

    def import_data(self, data: Path, mapping: Path | None, shift: bool = True) -> None:
        """Import a data set; `shift`: its times to now."""
        with self.outcome.step(f"import {data}"):
            options = [
                *(("--mapping", str(mapping)) if mapping else ()),
                *(["--shift-to-now"] if shift else []),
            ]
            self.children.run("data", "import", str(data), *options)
        report = json.loads((self.settings.lake / "import-report.json").read_text(encoding="utf-8"))
        self.outcome.counts["events imported"] = count_rows(self.settings.lake)
        self.outcome.counts["import"] = report

    def first_bundle(self, minutes: float = 1.0) -> None:
        """Train on the newest events, as many as fit in about `minutes`, while the log is replayed."""
        with self.replaying():
            with self.outcome.step("build the newest examples with Spark"):
                self.children.run("features", "build", "--newest", str(first_sizes(minutes).built))
            with self.outcome.step("train a first bundle and publish it"):
                self.children.run("train", "all", "--first", "--minutes", f"{minutes:.2f}")

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """Meanwhile the whole log goes through Kafka into Redis; at the end, wait for what is left of it."""
        records = count_rows(self.settings.lake)
        config = StoreConfig(partitions=self.settings.partitions)
        store = RedisFeatureStore(self.redis_url, FEATURES, config, self.settings.redis_namespace)
        self.children.start("worker", "stream", "worker")
        self.children.start("replay", "stream", "replay", "--speed", "0")
        try:
            yield
            with self.outcome.step("replay through Kafka into Redis: what was left of it"):
                self.children.finish("replay", CATCH_UP_TIMEOUT_S)
                self.children.wait("worker", lambda: self._applied(store) >= records, CATCH_UP_TIMEOUT_S)
        finally:
            store.close()
        self.outcome.counts["events applied"] = records

    def _applied(self, store: FeatureStore) -> int:
        """Number of records of the topic `events` that the worker has applied."""
        checkpoints = (store.checkpoint(Topic.EVENTS, p) for p in range(self.settings.partitions))
        return sum(c.offset for c in checkpoints if c)

    def serve(self, port: int) -> Api:
        """Start the API on `port`; 0: any free one."""
        with self.outcome.step("serve"):
            return serve(self.children, port)

    def improve(self, api: Api) -> None:
        """Build and train everything while the API serves, which then swaps the better bundle in; end with Ctrl-C.

        Raises:
            Unavailable: the API ended before.
        """
        with suppress(KeyboardInterrupt):
            self._in_full()
            while api.ready():
                time.sleep(1.0)
            logs = self.settings.home / "logs"
            raise Unavailable(f"the API at {api.url} is no longer ready; its log is in {logs}")

    def _in_full(self) -> None:
        self.children.start("archive", "stream", "archive")
        with self.outcome.step("build all examples with Spark"):
            self.children.run("features", "build")
        with self.outcome.step("train both models in full and publish them"):
            self.children.run("train", "all", *epochs(self.outcome.counts["events imported"]))
        console.print("the API has swapped the better bundle in; it serves until Ctrl-C")


@contextmanager
def started(name: str) -> Iterator[Loop]:
    """A run in `<home>/<name>`, without what the last one left there. What it starts stops on exit."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: stop everything
    settings = Settings().model_copy(update={"home": Settings().home / name})
    for folder in RECREATED:
        shutil.rmtree(settings.home / folder, ignore_errors=True)
    with embedded(settings, fresh=True) as services:
        environ = {"RECSYS_HOME": str(settings.home), **services.environ()}
        with Children(settings.home / "logs", environ) as children:
            yield Loop(settings, children, services.redis_url)
