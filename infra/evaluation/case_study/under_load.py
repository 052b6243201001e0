"""Before and after over HTTP under an open load: response times, throughput, memory, processor time, bytes, cost.

One scenario, one machine, one run, the same number of API processes. In this order, for each deployment: 1. warm-up;
2. rates, growing until one is not sustained (p99 within the limit, 97 % answered): throughput; 3. *before* at half of
its throughput, and *after* at the same rate: response times; 4. *after* at half of its own throughput, where both are
equally busy: processor time and bytes per request; 5. resident memory after all that.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from infra.evaluation.benchmarks.load import Answers, Load, run_load
from infra.evaluation.benchmarks.process_cost import Memory, cpu_time, largest_memory, tree_memory
from infra.evaluation.benchmarks.saturation import saturate, saturation, sustained
from infra.evaluation.benchmarks.serve import Api
from infra.evaluation.case_study.deployments import AFTER, BEFORE, Deployment
from infra.evaluation.case_study.rows import Measured
from infra.evaluation.case_study.section import Found, Sheet
from infra.evaluation.case_study.served import ServedScenario, Size
from infra.evaluation.case_study.wire import Wire
from infra.sizing_table import SizingTable, read_table
from infra.terminal import console
from recsys.energy import Energy, modelled

LIMIT_MS = 500  # of p99, the same for both: `infra.evaluation.benchmarks.saturation.sustained`
_LIMITS_MS = (80, 100, 200, LIMIT_MS)  # 80: the deadline of *after*
_GIB_MIB = 1024
_MONTH_S = 30 * 86_400
_MILLION = 1_000_000
_WARM_S = 3.0
_SETTLE_S, _IDLE_S = 2.0, 4.0


@dataclass(frozen=True)
class UnderLoad:
    """`first_rates`: of before and of after, where the search for the throughput begins. `hot`: share of requests that
    a few users repeat, in the mix that caches are made for."""

    name: ClassVar[str] = "under_load"
    networks: Path
    size: Size = field(default_factory=Size)
    workers: int = 2
    first_rates: tuple[float, float] = (5.0, 40.0)
    step: float = 1.25
    step_s: float = 8.0
    steady_s: float = 60.0
    hot: float = 0.75

    def measure(self) -> Found:
        with ServedScenario(self.size, self.networks) as scenario:
            before = self._deployment(scenario, BEFORE, self.first_rates[0])
            after = self._deployment(scenario, AFTER, self.first_rates[1], before.rate)
        return Found(
            _rows(before, after, self.size, self.workers, self.hot),
            [_sheet(before, after), _limits(before, after)],
            {
                "response_ms": {"before": before.equal.ms, "after": after.equal.ms},
                "curves": {"before": before.curve, "after": after.curve},
                "before": before.figures(),
                "after": after.figures(),
            },
        )

    def _deployment(
        self, scenario: ServedScenario, deployment: Deployment, first_rate: float, rate: float = 0.0
    ) -> "Loaded":
        """`rate`: of the equal load; 0: half of this deployment's throughput."""
        size = self.size
        console.print(f"{deployment.name}: {deployment.what}")
        with scenario.serve(deployment, self.workers) as served:
            load = Load(served.port, first_rate, self.step_s, size.users, size.items, seed=size.seed)
            run_load(replace(load, seconds=_WARM_S))
            curve = saturate(load, self.step)
            throughput = saturation(curve)
            steady = replace(load, seconds=self.steady_s, seed=size.seed + 100)
            half = max(throughput / 2, 1.0)
            equal = self._watched(scenario, served, deployment, replace(steady, rate=rate or half))
            busy = self._watched(scenario, served, deployment, replace(steady, rate=half)) if rate else equal
            time.sleep(_SETTLE_S)
            with cpu_time(**_pids(scenario, served, deployment)) as idle:
                time.sleep(_IDLE_S)
            hot = throughput
            if deployment is AFTER:  # before has no caches
                asked_again = replace(load, rate=throughput, hot=8, hot_share=self.hot)
                hot = saturation(saturate(asked_again, self.step))
            return Loaded(
                rate=rate or half,
                throughput=throughput,
                throughput_degraded=max(a.degraded for a in curve.values() if sustained(a)),
                hot_throughput=hot,
                by_limit={
                    limit: max((a.per_s for a in curve.values() if sustained(a, limit)), default=0.0)
                    for limit in _LIMITS_MS
                },
                equal=equal.answers,
                memory=largest_memory(served.process.pid),
                tree_pss_mib=sum(process.pss for process in tree_memory(served.process.pid)),
                busy_rate=half,
                cpu_s=busy.cpu_s,
                equal_cpu_s=equal.cpu_s,
                beyond_idle_cpu_s={
                    name: max(0.0, seconds - idle[name] / _IDLE_S / busy.answers.per_s)
                    for name, seconds in busy.cpu_s.items()
                },
                bytes_=busy.bytes_,
                curve=[(r, a.percentile(50), a.percentile(99), a.errors) for r, a in curve.items()],
            )

    def _watched(
        self, scenario: ServedScenario, served: Api, deployment: Deployment, load: Load
    ) -> "_Steady":
        """Run a steady load; what a request takes of each process and wire."""
        wire = Wire(scenario.rig, scenario.redis, int(deployment.stream))
        with wire, cpu_time(**_pids(scenario, served, deployment)) as cpu_s:
            answers = run_load(load)
        n = max(len(answers.ms), 1)
        return _Steady(
            answers,
            {name: seconds / n for name, seconds in cpu_s.items()},
            {"http": answers.bytes / n, "redis": wire.redis / n, "kafka": wire.kafka / n},
        )


def _pids(scenario: ServedScenario, served: Api, deployment: Deployment) -> dict[str, int]:
    rig = scenario.rig
    pids = {"api": served.process.pid, "redis": rig.redis.pid, "kafka": rig.kafka.pid}
    return pids | ({"worker": rig.workers[-1].pid} if deployment.stream else {})


@dataclass(frozen=True)
class _Steady:
    answers: Answers
    cpu_s: Mapping[str, float]
    bytes_: Mapping[str, float]


@dataclass(frozen=True)
class Loaded:
    """One deployment under load. Processor time and bytes are per request, by process and by wire."""

    rate: float
    throughput: float
    throughput_degraded: int  # of the step that had most of them
    hot_throughput: float
    by_limit: Mapping[int, float]  # limit of p99 in ms → largest measured rate; 0: none was sustained
    equal: Answers
    memory: Memory  # of the largest API process
    tree_pss_mib: float  # all API processes together
    busy_rate: float
    cpu_s: Mapping[str, float]
    equal_cpu_s: Mapping[str, float]
    beyond_idle_cpu_s: Mapping[str, float]
    bytes_: Mapping[str, float]
    curve: Sequence[tuple[float, float, float, int]]

    def figures(self) -> dict[str, Any]:
        """Everything but the answers, JSON-ready."""
        figures = asdict(self)
        del figures["equal"], figures["curve"]
        return figures | {
            "equal_mean_ms": float(np.mean(self.equal.ms)),
            **{f"equal_p{q}_ms": self.equal.percentile(q) for q in (50, 90, 99)},
            "equal_failed": self.equal.errors,
            "equal_degraded": self.equal.degraded,
        }

    @property
    def energy(self) -> Energy:
        """Of 1 000 requests at half of the throughput: every process's time, and the API's memory."""
        held_s = 1_000 / self.busy_rate
        return modelled(1_000 * sum(self.cpu_s.values()), self.tree_pss_mib / _GIB_MIB * held_s)

    def cost(self, table: SizingTable, workers: int) -> float:
        """Of a million requests: their processor time, and the memory of the API processes for as long as they take,
        all at the table's utilisation."""
        core_s = _MILLION * sum(self.cpu_s.values())
        process_s = _MILLION * workers / self.throughput
        price = core_s * table.prices.core + process_s * self.memory.rss / _GIB_MIB * table.prices.memory_gib
        return price / table.utilisation / _MONTH_S


def _rows(before: Loaded, after: Loaded, size: Size, workers: int, hot: float) -> list[Measured]:
    scenario = f"{size.items} items, untrained weights, {workers} API processes"
    equal = (
        f"{before.rate:.1f} requests/s, {len(before.equal.ms)} and {len(after.equal.ms)} answers, {scenario}"
    )
    if failed := [f"{side.equal.errors} failed" for side in (before, after) if side.equal.errors]:
        equal += f"; {', '.join(failed)}"
    half = f"at half of each one's throughput ({before.busy_rate:.0f} and {after.busy_rate:.0f} requests/s)"
    within = f"p99 within {LIMIT_MS} ms, at least 97 % answered, rates in steps"
    table = read_table()
    prices = f"{table.prices.core:g} per core and {table.prices.memory_gib:g} per GiB a month"

    def row(name: str, of: Callable[[Loaded], float], unit: str, how: str, part: str = "") -> Measured:
        return Measured(name, of(before), of(after), unit, how, part)

    def cpu(of: Callable[[Loaded], Mapping[str, float]], how: str, part: str = "") -> Measured:
        unit = "CPU-seconds per 1 000 requests"
        return row("compute", lambda side: 1_000 * sum(of(side).values()), unit, how, part)

    return [
        row("response_time", lambda side: float(np.mean(side.equal.ms)), "ms", equal),
        row("response_time_p99", lambda side: side.equal.percentile(99), "ms", equal),
        row("throughput", lambda side: side.throughput, "requests/s", f"{within}, {scenario}"),
        row(
            "throughput",
            lambda side: side.hot_throughput,
            "requests/s",
            f"{within}; {hot:.0%} of the requests are repeated by 8 users; before has no caches",
            "cached lists asked for again",
        ),
        row("memory", lambda side: side.memory.rss, "MiB", f"the largest API process, {scenario}"),
        row(
            "memory",
            lambda side: side.tree_pss_mib,
            "MiB",
            f"shared pages counted once, {scenario}",
            "PSS of all API processes",
        ),
        row(
            "memory",
            lambda side: side.memory.private,
            "MiB",
            f"the largest API process, {scenario}",
            "private",
        ),
        cpu(
            lambda side: side.cpu_s,
            f"API, Redis, broker and (after) worker, {half}; every fifth request follows an event",
        ),
        cpu(
            lambda side: side.equal_cpu_s,
            f"{before.rate:.1f} requests/s, where after is idle most of the time and what it does then counts",
            "at equal load",
        ),
        cpu(
            lambda side: side.beyond_idle_cpu_s,
            f"{half}, less what the same processes take in {_IDLE_S:g} s without requests: they wait by polling",
            "beyond waiting",
        ),
        row(
            "hardware_cost",
            lambda side: side.cost(table, workers),
            "a million requests, in the currency of infra/capacity/sizing.yaml",
            f"measured CPU-seconds and memory; {prices}, utilisation {table.utilisation:g}",
        ),
        row(
            "energy",
            lambda side: side.energy.joules,
            "J per 1 000 requests",
            f"model of recsys/energy.py: {_bounds(before.energy)} before, {_bounds(after.energy)} after; {half}",
            "serving, modelled",
        ),
        row(
            "network",
            lambda side: sum(side.bytes_.values()),
            "bytes per request",
            f"HTTP as sent and received, Redis by INFO, Kafka by its records, {half}",
        ),
    ]


def _bounds(energy: Energy) -> str:
    return f"{energy.low:.3g} to {energy.high:.3g} J"


def _sheet(before: Loaded, after: Loaded) -> Sheet:
    both, lines = (before, after), list[list[str | float]]()
    for name in sorted({*before.cpu_s, *after.cpu_s}):
        used = [1e3 * side.cpu_s.get(name, 0.0) for side in both]
        beyond_waiting = [1e3 * side.beyond_idle_cpu_s.get(name, 0.0) for side in both]
        lines.append([f"processor time of {name}, ms per request", *used])
        lines.append(["… of it beyond waiting", *beyond_waiting])
    for name in before.bytes_:
        lines.append([f"{name}, bytes per request", *(side.bytes_[name] for side in both)])
    for q in (50, 90, 99):
        lines.append([f"p{q} at equal load, ms", *(side.equal.percentile(q) for side in both)])
    degraded = "lists answered degraded"
    lines.append([f"{degraded} while the rates grew, at most", *(side.throughput_degraded for side in both)])
    lines.append([f"{degraded} at equal load", *(side.equal.degraded for side in both)])
    return Sheet("What a request takes, by process and wire", ("", "before", "after"), lines)


def _limits(before: Loaded, after: Loaded) -> Sheet:
    """How much the ratio of the throughputs depends on the chosen limit."""
    lines: list[list[str | float]] = []
    for limit in _LIMITS_MS:
        rates = before.by_limit[limit], after.by_limit[limit]
        times = f"x {rates[1] / rates[0]:.1f}" if rates[0] else ""
        lines.append([f"p99 within {limit} ms", *(rate or "none of the measured" for rate in rates), times])
    note = "The same limit for both, at least 97 % answered; rates in steps, each for some seconds, so p99 is coarse."
    return Sheet("Requests per second by limit", ("", "before", "after", ""), lines, note)
