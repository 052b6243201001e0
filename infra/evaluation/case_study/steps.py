"""The middle column: from *before* to *after* one means at a time, each step measured at the same low rate."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from infra.evaluation.benchmarks.load import Load, run_load
from infra.evaluation.benchmarks.process_cost import cpu_time, largest_rss_mib
from infra.evaluation.benchmarks.serve import Api
from infra.evaluation.case_study.deployments import STEPS, Deployment
from infra.evaluation.case_study.section import Found, Sheet
from infra.evaluation.case_study.served import ServedScenario, Size
from infra.terminal import console
from training.compression.variants import read_variants

_K = 20
_WARM_S = 2.0


@dataclass(frozen=True)
class Step:
    """One step. `overlap`: share of the shown items that the step before shows to the same users, too; None where the
    networks differ, since theirs are untrained."""

    name: str
    what: str
    kept: bool
    p50_ms: float
    p99_ms: float
    api_cpu_ms: float
    other_cpu_ms: float  # Redis, the broker, and the worker where there is one
    rss_mib: float
    failed: int
    overlap: float | None
    click_auc: float | None


@dataclass(frozen=True)
class Steps:
    """Every step has one API process. `ladder`: where the quality of the variants is read, if it was built."""

    networks: Path
    ladder: Path
    size: Size = field(default_factory=Size)
    rate: float = 6.0
    seconds: float = 30.0
    compared: int = 40  # users whose lists are compared
    steps: tuple[str, ...] = tuple(deployment.name for deployment in STEPS)

    @property
    def name(self) -> str:
        return "steps"

    def measure(self) -> Found:
        auc = _click_auc(self.ladder)
        steps: list[Step] = []
        with ServedScenario(self.size, self.networks) as world:
            last: tuple[Deployment, list[set[str]]] | None = None
            for deployment in (step for step in STEPS if step.name in self.steps):
                console.print(f"step {deployment.name}: {deployment.what}")
                with world.serve(deployment, 1) as served:
                    step, lists = self._step(world, served, deployment, last, auc)
                steps.append(step)
                if deployment.kept:
                    last = deployment, lists
        return Found([], [_sheet(steps, self)], {"steps": [asdict(step) for step in steps]})

    def _step(
        self,
        world: ServedScenario,
        served: Api,
        deployment: Deployment,
        last: tuple[Deployment, list[set[str]]] | None,
        auc: Mapping[str, float],
    ) -> tuple[Step, list[set[str]]]:
        lists = self._lists(served)
        load = Load(
            served.port, self.rate, self.seconds, self.size.users, self.size.items, seed=self.size.seed
        )
        run_load(Load(served.port, self.rate, _WARM_S, self.size.users, self.size.items, seed=1))
        pids = {"api": served.process.pid, "redis": world.rig.redis.pid, "kafka": world.rig.kafka.pid}
        if deployment.stream:
            pids["worker"] = world.rig.workers[-1].pid
        with cpu_time(**pids) as cpu_s:
            answers = run_load(load)
        overlap = None
        if last is not None and last[0].variant == deployment.variant:
            pairs = zip(last[1], lists, strict=True)
            overlap = float(np.mean([len(a & b) / max(len(a), 1) for a, b in pairs]))
        step = Step(
            deployment.name,
            deployment.what,
            deployment.kept,
            answers.percentile(50),
            answers.percentile(99),
            1e3 * cpu_s.pop("api") / max(len(answers.ms), 1),
            1e3 * sum(cpu_s.values()) / max(len(answers.ms), 1),
            largest_rss_mib(served.process.pid),
            answers.errors,
            overlap,
            auc.get(deployment.variant),
        )
        return step, lists

    def _lists(self, served: Api) -> list[set[str]]:
        """What the first users, who are the most active ones, are shown."""
        with httpx.Client(base_url=served.url, timeout=30) as client:
            return [
                {item["item_id"] for item in self._list(client, user)["items"]}
                for user in range(self.compared)
            ]

    def _list(self, client: httpx.Client, user: int) -> Any:
        answer = client.post("/v1/recommendations", json={"user_id": f"user-{user}", "k": _K})
        return answer.raise_for_status().json()


def _click_auc(ladder: Path) -> dict[str, float]:
    """Variant → AUC of the trained network on the ladder's test rows; empty without a ladder."""
    return {variant.name: variant.metrics["click_auc"] for variant in read_variants(ladder)}


def _sheet(steps: Sequence[Step], config: Steps) -> Sheet:
    unknown = ""
    lines: list[list[str | float]] = [
        [
            step.name,
            step.what + ("" if step.kept else " (the steps below are without it)"),
            step.p50_ms,
            step.p99_ms,
            step.api_cpu_ms,
            step.other_cpu_ms,
            step.rss_mib,
            unknown if step.overlap is None else f"{step.overlap:.3f}",
            unknown if step.click_auc is None else f"{step.click_auc:.4f}",
            str(step.failed),
        ]
        for step in steps
    ]
    note = (
        f"One API process, {config.rate:g} requests/s for {config.seconds:g} s, {config.size.items} items. The others"
        " are Redis, the broker and, where there is one, the worker: at so low a rate mostly what they take while they"
        " wait. Networks are untrained here, so lists of different networks are not compared; their click AUC is that"
        " of the trained variants of `recsys train ladder` (synthetic), if it was built. Lists of equal means differ,"
        " too: features tick from one look to the next, and untrained networks are nervous."
    )
    head = [
        "step", "means", "p50, ms", "p99, ms", "CPU a request, API, ms", "CPU a request, others, ms",
        "memory, MiB", "same items as before it", "click AUC", "failed",
    ]  # fmt: skip
    return Sheet("What each means buys", head, lines, note)
