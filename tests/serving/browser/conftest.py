"""The page in a real Chromium, on a real API with a worker, Redis and Kafka of its own and tiny bundles.

Fixtures end with this package: while Playwright is open, its event loop runs in the thread of the tests, and
`asyncio.run` of any other test would fail.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from infra.local.children import Children
from infra.local.memory_kafka import MemoryKafka
from infra.local.redis import RedisServer
from infra.loop import Api, serve
from recsys.contracts.types import EventType
from recsys.experiments.release import Check, Stage, proposed
from recsys.experiments.release_file import write_release
from recsys.result import Result
from tests.bundles import write_tiny_bundle
from tests.edge_bundles import write_edge_bundle
from tests.recsys.experiments.lakes import LakeBuilder, day

PARTITIONS = 4
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    write_edge_bundle(folder / "bundles", "v1")
    write_tiny_bundle(folder / "bundles", "v2", seed=1, current=False)
    _write_what_commands_leave(folder)
    _write_experiment(folder)
    _write_release(folder / "bundles")
    return folder


def _write_release(bundles: Path) -> None:
    """One that a guardrail has ended: it shows its candidate to nobody."""
    checks = (Check("click_auc", 0.0021, 0.0), Check("rows", 10_500.0, 10_000.0))
    release = replace(proposed("v2", "v1", day(0)), checks=checks, settled=True)
    for number, stage in enumerate((Stage.TRAINED, Stage.GATED, Stage.SHADOW, Stage.CANARY_1)):
        write_release(bundles, replace(release, stage=stage, number=number, since_ms=day(0, 12 + number)))
    harmed = replace(release, stage=Stage.ROLLED_BACK, number=4, since_ms=day(0, 17), users=1_210)
    write_release(bundles, replace(harmed, p={"ctr": 0.0004, "slow": 1.0}, reason="harm: ctr (p 0.0004)"))


EXPERIMENTS = """
experiments:
  - name: diversity
    layer: rerank
    arms: [{name: control}, {name: dpp, settings: {rerank: {diversity: dpp}}}]
  - {name: unseen, layer: models, last: 0.5, arms: [{name: all}]}
"""
ARM_USERS = 40


def _write_experiment(home: Path) -> None:
    """Two arms that users were shown for five hours, as the archiver keeps it. The second one's click more."""
    (home / "experiments.yaml").write_text(EXPERIMENTS, encoding="utf-8")
    rng, lake = np.random.default_rng(0), LakeBuilder()
    for n in range(5 * ARM_USERS):
        user, at = n % ARM_USERS, day(0, 9 + n / ARM_USERS)
        arm = ("control", "dpp")[user % 2]
        request = lake.show(f"u{user}", at, ["a/p", "b/q", "c/p"], f"diversity:{arm}@0.5")
        for item in np.array(["a/p", "b/q", "c/p"])[rng.random(3) < (0.2, 0.4)[user % 2]]:
            lake.act(EventType.CLICK, f"u{user}", at + 1_000, str(item), request)
    lake.write(home / "lake")


def _write_what_commands_leave(home: Path) -> None:
    """An import's report, a training and two results, as the Data and models view reads them."""
    for name in ("lake", "work/ranker", "results"):
        (home / name).mkdir(parents=True)
    days = {f"2026-01-{day:02}": {"click": 10 * day, "like": day} for day in range(1, 6)}
    report = {"dataset": "tiny", "events": 165, "events_by_day": days, "broken": 1}
    (home / "lake" / "import-report.json").write_text(
        json.dumps(report | {"broken_by_reason": {"u.data: rating: no number": 1}})
    )
    curve = [{"epoch": n, "validation": {"score": 0.6 + n / 50}} for n in range(1, 5)]
    summary = {"metrics": {"click_auc": 0.68}, "curve": curve}
    (home / "work" / "ranker" / "summary.json").write_text(json.dumps(summary))
    variants = {
        f"{variant}_{name}": value
        for variant in ("teacher", "int8")
        for name, value in {"mb": 5.0, "memory_mib": 9.0, "p50_ms": 1.0, "p99_ms": 2.0, "passed": 1.0}.items()
    }
    recall = {"two_tower_hr@10": 0.19, "two_tower_hr@10_new_users": 0.11, "ease_hr@10": 0.14}
    for result in (Result("report ladder", 0, variants), Result("evaluate recall", 0, recall)):
        (home / "results" / f"{result.command.split()[1]}.json").write_text(json.dumps(result.to_dict()))


@pytest.fixture(scope="package")
def children(home: Path) -> Iterator[Children]:
    with RedisServer() as redis, MemoryKafka(partitions=PARTITIONS) as kafka:
        environ = {
            "RECSYS_HOME": str(home),
            "RECSYS_REDIS_URL": redis.url,
            "RECSYS_KAFKA_BOOTSTRAP": kafka.bootstrap,
            "RECSYS_PARTITIONS": str(PARTITIONS),
            "RECSYS_EXPERIMENTS": str(home / "experiments.yaml"),
            "RECSYS_ITEM_TOKENS": "on",  # which the console sends back
            "RECSYS_DEADLINE_MS": "5000",  # a busy machine is not what is tested
            "RECSYS_STORE_TIMEOUT_MS": "2000",
            "OMP_NUM_THREADS": "1",
        }
        with Children(home / "logs", environ) as owned:
            owned.start("worker", "stream", "worker")
            yield owned


@pytest.fixture(scope="package")
def api(children: Children) -> Api:
    return serve(children)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def context(browser: Browser, api: Api) -> Iterator[BrowserContext]:
    made = browser.new_context(base_url=api.url, viewport={"width": 1280, "height": 900})
    made.set_default_timeout(30_000)
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """Fails when the page logs an error: a script that throws, a file that is missing, a policy that was broken. A 503
    of an experiment's outcomes is none: they are that while they are read for a page of the test before."""
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))

    def note(message: ConsoleMessage) -> None:
        outcomes_are_busy = "status of 503" in message.text and message.location["url"].endswith("/outcomes")
        if message.type == "error" and not outcomes_are_busy:
            errors.append(message.text)

    opened.on("console", note)
    yield opened
    assert errors == []
