"""The steps from *before* to *after*, one change at a time, each measured at the same low rate."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from infra.evaluation.benchmarks.load import Load, run_load
from infra.evaluation.benchmarks.process_cost import Memory, cpu_time, largest_memory
from infra.evaluation.benchmarks.serve import Api
from infra.evaluation.case_study.deployments import STEPS, Deployment
from infra.evaluation.case_study.section import Found, Sheet
from infra.evaluation.case_study.served import ServedScenario, Size
from infra.terminal import console
from recsys.client import Client
from training.compression.variants import read_variants

_K = 20
_WARM_S = 2.0


@dataclass(frozen=True)
class Step:
    """One step. `overlap`: share of the shown items that the step before shows to the same users; None where the
    networks differ, since they are untrained."""

    name: str
    what: str
    kept: bool
    p50_ms: float
    p99_ms: float
    api_cpu_ms: float
    other_cpu_ms: float  # Redis, the broker, and the worker where there is one
    memory: Memory
    failed: int
    overlap: float | None
    click_auc: float | None


@dataclass(frozen=True)
class Steps:
    """Every step has one API process. `ladder`: where the variants' quality is read, if it was built."""

    name: ClassVar[str] = "steps"
    networks: Path
    ladder: Path
    size: Size = field(default_factory=Size)
    rate: float = 6.0
    seconds: float = 30.0
    compared: int = 40  # users whose lists are compared
    steps: tuple[str, ...] = tuple(deployment.name for deployment in STEPS)

    def measure(self) -> Found:
        auc = {variant.name: variant.metrics["click_auc"] for variant in read_variants(self.ladder)}
        steps: list[Step] = []
        with ServedScenario(self.size, self.networks) as scenario:
            last: tuple[Deployment, list[set[str]]] | None = None
            for deployment in (step for step in STEPS if step.name in self.steps):
                console.print(f"step {deployment.name}: {deployment.what}")
                with scenario.serve(deployment, 1) as served:
                    step, lists = self._step(scenario, served, deployment, last, auc)
                steps.append(step)
                if deployment.kept:
                    last = deployment, lists
        return Found([], [_sheet(steps, self)], {"steps": [asdict(step) for step in steps]})

    def _step(
        self,
        scenario: ServedScenario,
        served: Api,
        deployment: Deployment,
        last: tuple[Deployment, list[set[str]]] | None,
        auc: Mapping[str, float],
    ) -> tuple[Step, list[set[str]]]:
        lists, size = self._lists(served), self.size
        load = Load(served.port, self.rate, self.seconds, size.users, size.items, seed=size.seed)
        run_load(replace(load, seconds=_WARM_S, seed=1))
        pids = {"api": served.process.pid, "redis": scenario.rig.redis.pid, "kafka": scenario.rig.kafka.pid}
        if deployment.stream:
            pids["worker"] = scenario.rig.workers[-1].pid
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
            largest_memory(served.process.pid),
            answers.errors,
            overlap,
            auc.get(deployment.variant),
        )
        return step, lists

    def _lists(self, served: Api) -> list[set[str]]:
        """Lists of the first users, who are the most active ones."""
        with Client(served.url, timeout_s=30) as client:
            answers = [client.recommend(f"user-{user}", k=_K) for user in range(self.compared)]
        return [{item.item_id for item in answer.items} for answer in answers]


def _sheet(steps: Sequence[Step], config: Steps) -> Sheet:
    lines: list[list[str | float]] = [
        [
            step.name,
            step.what + ("" if step.kept else " (the steps below are without it)"),
            step.p50_ms,
            step.p99_ms,
            step.api_cpu_ms,
            step.other_cpu_ms,
            step.memory.rss,
            step.memory.pss,
            step.memory.private,
            "" if step.overlap is None else f"{step.overlap:.3f}",
            "" if step.click_auc is None else f"{step.click_auc:.4f}",
            str(step.failed),
        ]
        for step in steps
    ]
    note = (
        f"One API process, {config.rate:g} requests/s for {config.seconds:g} s, {config.size.items} items. The others"
        " are Redis, the broker and, where there is one, the worker: at such a low rate mostly what they take while"
        " waiting. Networks are untrained, so lists of different networks are not compared; their click AUC is that of"
        " the trained variants of `recsys train ladder` (synthetic), if it was built. Lists of equal steps differ, too:"
        " features tick between two requests, and untrained networks amplify it."
    )
    head = [
        "step", "change", "p50, ms", "p99, ms", "CPU per request, API, ms", "CPU per request, others, ms",
        "RSS, MiB", "PSS, MiB", "private, MiB", "same items as the step before", "click AUC", "failed",
    ]  # fmt: skip
    return Sheet("What each step buys", head, lines, note)
