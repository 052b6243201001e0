"""`recsys bench edge`: lists that Chromium reranks, by the console's worker on a real API, the bytes of updates, and
what faster lists are worth to simulated users.

The bundle is that of the serving benchmark: an untrained student, whose cost and agreement do not depend on what it has
learnt. The network is this machine's; slower ones are simulated (`edge_lift`), with a student that has learnt.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import psutil
from playwright.sync_api import Page, sync_playwright

from infra.evaluation.benchmarks.edge_lift import LIFT_GOALS, LIFT_NOTES, LiftConfig, lift_figures
from infra.evaluation.benchmarks.edge_updates import update_figures
from infra.evaluation.benchmarks.serve import api as serving
from infra.evaluation.benchmarks.serve import prepare
from infra.evaluation.benchmarks.serving_fixture import bench_items
from infra.evaluation.stream_rig import StreamRig
from infra.evaluation.timing import percentiles_ms
from infra.terminal import console
from recsys.contracts.errors import Unavailable
from recsys.result import Goal, Result
from serving.api.console_files import RUNTIME
from training.compression.synthetic import LadderData

_FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
_SCRIPT = resources.files(__package__).joinpath("edge.js")
_PAGE = 12
_OFFLINE_PAGES = 20


@dataclass(frozen=True)
class EdgeBench:
    """`lists` of different users, `acts` on each; `nights` of training."""

    seed: int = 0
    items: int = 20_000
    users: int = 1_000
    events: int = 30_000
    lists: int = 30
    acts: int = 20
    nights: int = 6
    data: LadderData = field(default_factory=LadderData)
    lift: LiftConfig = field(default_factory=LiftConfig)

    @classmethod
    def quick(cls, seed: int) -> "EdgeBench":
        data, lift = LadderData.quick(seed), LiftConfig.quick()
        return cls(
            seed, items=5_000, users=100, events=3_000, lists=5, acts=5, nights=3, data=data, lift=lift
        )


def run(config: EdgeBench) -> Result:
    """Rerank in the browser, then measure updates, then simulate."""
    if not RUNTIME.is_dir():
        raise Unavailable("onnxruntime-web is missing: make edge-runtime")
    items = bench_items(config.items, config.seed)
    with StreamRig() as rig:
        prepare(rig, items, config.users, config.events, config.seed)
        with serving(rig, workers=1, RECSYS_DEADLINE_MS="5000") as api, _page(api.url) as page:
            figures = in_browser(page, config)
    figures |= update_figures(config.data.replace(seed=config.seed), config.nights)
    figures |= lift_figures(config.lift, config.seed)
    notes = ("the bundle in the browser is untrained, the ids of the updates are synthetic", *LIFT_NOTES)
    return Result("bench edge", config.seed, figures, goals() | LIFT_GOALS, notes)


def goals() -> dict[str, Goal]:
    """A frame, the server's scores, and an update that nobody waits for."""
    return {
        "rerank_p99_ms": Goal("<=", 16.0),
        "largest_difference": Goal("<=", 1e-4),
        "model_bytes": Goal("<=", 80_000),
        "update_median_bytes": Goal("<=", 35_000),
        "update_over_server_ranker": Goal("<=", 0.01),
        "offline_pages": Goal(">=", _OFFLINE_PAGES),
        "list_bytes_per_100": Goal("<=", 15_000),
    }


def in_browser(page: Page, config: EdgeBench) -> dict[str, float]:
    """On a page of the console; users are `user-0` and so on."""
    before = _memory()
    page.evaluate(_SCRIPT.read_text(encoding="utf-8"))
    first = page.evaluate("measure.start('user-0')")
    after = _memory()
    found = [
        page.evaluate("([user, acts]) => measure.rerank(user, acts)", [f"user-{n}", config.acts])
        for n in range(config.lists)
    ]
    page.evaluate("measure.list('user-1')")
    page.context.set_offline(True)
    pages = page.evaluate("([size, most]) => measure.pages(size, most)", [_PAGE, _OFFLINE_PAGES])
    page.context.set_offline(False)
    times = [ms for one in found for ms in one["ms"]]
    figures = {
        **percentiles_ms("rerank", times),
        **percentiles_ms("rerank_in_worker", [ms for one in found for ms in one["inWorker"]]),
        "reranks": len(times),
        "candidates": found[-1]["candidates"],
        "largest_difference": max(one["difference"] for one in found),
        "start_ms": first["ms"],
        "list_bytes_per_100": 100 * sum(one["bytes"] / one["candidates"] for one in found) / len(found),
        "memory_mib": (after - before) / 2**20,
        "offline_pages": pages,
    }
    console.print(
        f"{len(times)} reranks of {figures['candidates']} items: p99 {figures['rerank_p99_ms']:.1f} ms"
    )
    return figures


@contextmanager
def _page(url: str) -> Iterator[Page]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise Unavailable("chromium is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_FLAGS))
        page = browser.new_page(base_url=url)
        page.goto("/#/models")
        yield page
        browser.close()


def _memory() -> int:
    """Bytes that the browser's processes have for themselves."""
    children: list[Any] = psutil.Process().children(recursive=True)
    return sum(child.memory_full_info().uss for child in children if "chrom" in child.name())
