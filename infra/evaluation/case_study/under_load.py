"""Before and after over HTTP under an open load: response times, throughput, memory, processor time, bytes, cost.

One world, one machine, one run; each deployment has as many API processes as the other. In this order, for each:
1. warm-up; 2. rates, growing until one is not sustained (p99 within the limit, 97 % answered): throughput; 3. *before*
at half of its throughput, and *after* at the very same rate: response times; 4. *after* at half of its own throughput:
processor time and bytes a request, where each is as busy as the other; 5. resident memory after all that.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from infra.evaluation.benchmarks.load import Answers, Load, run_load
from infra.evaluation.benchmarks.process_cost import cpu_time, largest_rss_mib
from infra.evaluation.benchmarks.serve import Api, saturate, sustained
from infra.evaluation.case_study.deployments import AFTER, BEFORE, Deployment
from infra.evaluation.case_study.rows import Measured
from infra.evaluation.case_study.section import Found, Sheet
from infra.evaluation.case_study.served import ServedScenario, Size
from infra.evaluation.case_study.wire import Wire
from infra.sizing_table import SizingTable, read_table
from infra.terminal import console
from recsys.contracts.errors import Unavailable

LIMIT_MS = 500  # of p99, the same for both: `infra.evaluation.benchmarks.serve.sustained`
_LIMITS_MS = (80, 100, 200, LIMIT_MS)  # 80: the deadline of *after*
_GIB_MIB = 1024
_MONTH_S = 30 * 86_400
_MILLION = 1_000_000
_WARM_S = 3.0
_SETTLE_S, _IDLE_S = 2.0, 4.0


@dataclass(frozen=True)
class UnderLoad:
    """`first_rates`: of before and of after, where the search for the throughput begins. `hot`: share of the requests
    of few users who ask again and again, in the mix that caches are made for."""

    networks: Path
    size: Size = field(default_factory=Size)
    workers: int = 2
    first_rates: tuple[float, float] = (5.0, 40.0)
    step: float = 1.25
    step_s: float = 8.0
    steady_s: float = 60.0
    hot: float = 0.75

    @property
    def name(self) -> str:
        return "under_load"

    def measure(self) -> Found:
        with ServedScenario(self.size, self.networks) as world:
            before = self._deployment(world, BEFORE, self.first_rates[0])
            after = self._deployment(world, AFTER, self.first_rates[1], before.rate)
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
        self, world: ServedScenario, deployment: Deployment, first_rate: float, rate: float = 0.0
    ) -> "Loaded":
        """`rate`: of the equal load; 0: half of this one's throughput."""
        size = self.size
        console.print(f"{deployment.name}: {deployment.what}")
        with world.serve(deployment, self.workers) as served:
            load = Load(served.port, first_rate, self.step_s, size.users, size.items, seed=size.seed)
            run_load(replace(load, seconds=_WARM_S))
            curve = self._curve(load)
            throughput = max(a.per_s for a in curve.values() if sustained(a))
            steady = replace(load, seconds=self.steady_s, seed=size.seed + 100)
            half = max(throughput / 2, 1.0)
            equal = self._watched(world, served, deployment, replace(steady, rate=rate or half))
            busy = self._watched(world, served, deployment, replace(steady, rate=half)) if rate else equal
            time.sleep(_SETTLE_S)
            with cpu_time(**_pids(world, served, deployment)) as idle:
                time.sleep(_IDLE_S)
            hot = throughput
            if deployment is AFTER:  # before has nothing that asking again could make quicker
                asked_again = replace(load, rate=throughput, hot=8, hot_share=self.hot)
                hot = max(a.per_s for a in self._curve(asked_again).values() if sustained(a))
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
                rss_mib=largest_rss_mib(served.process.pid),
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

    def _curve(self, load: Load) -> dict[float, Answers]:
        """Rates until one is not sustained, begun lower where the first one is not.

        Raises:
            Unavailable: not even one request a second is.
        """
        while load.rate >= 1:
            curve = saturate(load, self.step)
            if any(map(sustained, curve.values())):
                return curve
            load = replace(load, rate=load.rate / 3)
        raise Unavailable("not even one request a second is sustained; is the machine busy?")

    def _watched(self, world: ServedScenario, served: Api, deployment: Deployment, load: Load) -> "_Steady":
        """A steady load, and what a request takes of each process and wire."""
        wire = Wire(world.rig, world.redis, int(deployment.stream))
        with wire, cpu_time(**_pids(world, served, deployment)) as cpu_s:
            answers = run_load(load)
        n = max(len(answers.ms), 1)
        return _Steady(
            answers,
            {name: seconds / n for name, seconds in cpu_s.items()},
            {"http": answers.bytes / n, "redis": wire.redis / n, "kafka": wire.kafka / n},
        )


def _pids(world: ServedScenario, served: Api, deployment: Deployment) -> dict[str, int]:
    rig = world.rig
    pids = {"api": served.process.pid, "redis": rig.redis.pid, "kafka": rig.kafka.pid}
    return pids | ({"worker": rig.workers[-1].pid} if deployment.stream else {})


@dataclass(frozen=True)
class _Steady:
    answers: Answers
    cpu_s: Mapping[str, float]
    bytes_: Mapping[str, float]


@dataclass(frozen=True)
class Loaded:
    """One deployment under load. Processor time and bytes are a request's, by process and by wire."""

    rate: float
    throughput: float
    throughput_degraded: int  # of the step that had most of them
    hot_throughput: float
    by_limit: Mapping[int, float]  # largest measured rate with p99 within so many milliseconds; 0: none was
    equal: Answers
    rss_mib: float
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

    def cost(self, table: SizingTable, workers: int) -> float:
        """Of a million requests: their processor time, and the memory of the API processes for as long as they take,
        all at the table's utilisation."""
        core_s = _MILLION * sum(self.cpu_s.values())
        process_s = _MILLION * workers / self.throughput
        price = core_s * table.prices.core + process_s * self.rss_mib / _GIB_MIB * table.prices.memory_gib
        return price / table.utilisation / _MONTH_S


def _rows(before: Loaded, after: Loaded, size: Size, workers: int, hot: float) -> list[Measured]:
    both = (before, after)
    world = f"{size.items} items, untrained weights, {workers} API processes"
    equal = f"{before.rate:.1f} requests/s, {len(before.equal.ms)} and {len(after.equal.ms)} answers, {world}"
    if failed := [f"{loaded.equal.errors} failed" for loaded in both if loaded.equal.errors]:
        equal += f"; {', '.join(failed)}"
    half = f"at half of each one's throughput ({before.busy_rate:.0f} and {after.busy_rate:.0f} requests/s)"
    table = read_table()

    def row(name: str, of: tuple[float, float], unit: str, how: str, part: str = "") -> Measured:
        return Measured(name, *of, unit, how, part)

    cpu = [1_000 * sum(loaded.cpu_s.values()) for loaded in both]
    cpu_equal = [1_000 * sum(loaded.equal_cpu_s.values()) for loaded in both]
    mean = [float(np.mean(loaded.equal.ms)) for loaded in both]
    cpu_more = [1_000 * sum(loaded.beyond_idle_cpu_s.values()) for loaded in both]
    carried = [sum(loaded.bytes_.values()) for loaded in both]
    within = f"p99 within {LIMIT_MS} ms, at least 97 % answered, rates in steps"
    return [
        row("response_time", (mean[0], mean[1]), "ms", equal),
        row("response_time_p99", (before.equal.percentile(99), after.equal.percentile(99)), "ms", equal),
        row("throughput", (before.throughput, after.throughput), "requests/s", f"{within}, {world}"),
        row(
            "throughput",
            (before.hot_throughput, after.hot_throughput),
            "requests/s",
            f"{within}; {hot:.0%} of the requests are of 8 users who ask again and again; before has no caches",
            "cached lists asked for again",
        ),
        row("memory", (before.rss_mib, after.rss_mib), "MiB", f"the largest API process, {world}"),
        row(
            "compute",
            (cpu[0], cpu[1]),
            "CPU-seconds per 1 000 requests",
            f"API, Redis, broker and (after) worker, {half}; every fifth request follows an event",
        ),
        row(
            "compute",
            (cpu_equal[0], cpu_equal[1]),
            "CPU-seconds per 1 000 requests",
            f"{before.rate:.1f} requests/s, where after is idle most of the time and what it does then counts",
            "at equal load",
        ),
        row(
            "compute",
            (cpu_more[0], cpu_more[1]),
            "CPU-seconds per 1 000 requests",
            f"{half}, less what the same processes take in {_IDLE_S:g} s without requests: they wait by asking",
            "beyond waiting",
        ),
        row(
            "hardware_cost",
            (before.cost(table, workers), after.cost(table, workers)),
            "a million requests, in the currency of infra/capacity/sizing.yaml",
            f"measured CPU-seconds and memory; {table.prices.core:g} a core and {table.prices.memory_gib:g} a GiB "
            f"a month, utilisation {table.utilisation:g}",
        ),
        row(
            "network",
            (carried[0], carried[1]),
            "bytes per request",
            f"HTTP as sent and received, Redis by INFO, Kafka by its records, {half}",
        ),
    ]


def _sheet(before: Loaded, after: Loaded) -> Sheet:
    lines: list[list[str | float]] = []
    for name in sorted({*before.cpu_s, *after.cpu_s}):
        of = [1e3 * loaded.cpu_s.get(name, 0.0) for loaded in (before, after)]
        lines.append([f"processor time of {name}, ms a request", *of])
        more = [1e3 * loaded.beyond_idle_cpu_s.get(name, 0.0) for loaded in (before, after)]
        lines.append(["… of it beyond waiting", *more])
    lines += [[f"{name}, bytes a request", before.bytes_[name], after.bytes_[name]] for name in before.bytes_]
    for q in (50, 90, 99):
        lines.append([f"p{q} at equal load, ms", before.equal.percentile(q), after.equal.percentile(q)])
    lines.append(
        [
            "lists answered degraded while the rates grew, at most",
            before.throughput_degraded,
            after.throughput_degraded,
        ]
    )
    lines.append(["lists answered degraded at equal load", before.equal.degraded, after.equal.degraded])
    return Sheet("What a request takes, by process and wire", ("", "before", "after"), lines)


def _limits(before: Loaded, after: Loaded) -> Sheet:
    """How much the ratio of the throughputs depends on the limit that one chooses."""
    lines: list[list[str | float]] = []
    for limit in _LIMITS_MS:
        rates = before.by_limit[limit], after.by_limit[limit]
        times = f"x {rates[1] / rates[0]:.1f}" if rates[0] else ""
        lines.append([f"p99 within {limit} ms", *(rate or "none of the measured" for rate in rates), times])
    note = "The same limit for both, at least 97 % answered; rates in steps, each for some seconds, so p99 is coarse."
    return Sheet("Requests a second by limit", ("", "before", "after", ""), lines, note)
