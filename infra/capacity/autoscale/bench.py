"""`recsys bench autoscale`: the policy against the autoscalers that the deployment files had before it, simulated.

Two fleets, the API and the feature workers, over days with and without flash crowds. Their queues are calibrated by
`recsys bench serve` and `recsys bench stream` (infra/capacity/sizing.yaml). Also: the policy as Kubernetes follows its
manifest, a fixed number that is enough for the peak, and perfect foresight.

A minute is missed when more than 1 % of its requests took longer than 80 ms or were refused; of events, when more than
1 % waited for longer than a second. Ratios are of sums over all days, their intervals (95 %) over days. The policy's
parameters were chosen on the days of seeds from 100 on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from infra.capacity.autoscale.fleets import SCALERS, Day, api, workers
from infra.capacity.autoscale.manifests import api_policy
from infra.capacity.autoscale.plot import plot
from infra.capacity.autoscale.queues import Floats
from infra.capacity.autoscale.simulate import Outcome
from infra.capacity.autoscale.traces import DAY_S
from recsys.result import Goal, Result
from training.bootstrap import Estimate, bootstrap

_FLEETS = {"api": api, "workers": workers}
_TRACES = {"diurnal": False, "crowds": True}
_OTHERWISE: Mapping[str, Callable[[Day], Day]] = {  # on the days with crowds
    "slow_start": lambda day: replace(day, start_s=60),
    "slow_process": lambda day: replace(day, slower=0.8),
}
_PERCENT = (35, 40, 45, 50, 55, 60, 65)
_NOTES = (
    "simulated: queues calibrated by recsys bench serve and recsys bench stream; no pod was started",
    "before: the autoscalers of commit 04859dd (API: p99 40 ms, 60 % of a core, 150 requests/s; workers: lag 5,000)",
)

Days = Sequence[dict[str, Outcome]]  # by the scaler's name


@dataclass(frozen=True)
class AutoscaleBench:
    """`days` of `day_s` seconds, each with a seed of its own, for each fleet and kind of day."""

    seed: int = 0
    days: int = 8
    day_s: int = DAY_S
    plot: Path | None = None

    @classmethod
    def quick(cls, seed: int) -> "AutoscaleBench":
        return cls(seed, days=2, day_s=DAY_S // 24)

    def each_day(self, crowds: bool) -> list[Day]:
        return [Day(self.seed * 1_000 + n, crowds, day_s=self.day_s) for n in range(self.days)]


def run(bench: AutoscaleBench) -> Result:
    """Simulate all days; plot those with crowds if asked."""
    figures: dict[str, float] = {}
    goals: dict[str, Goal] = {}
    for name, fleet in _FLEETS.items():
        found = {
            trace: [{s: fleet(day).play(s) for s in SCALERS} for day in bench.each_day(crowds)]
            for trace, crowds in _TRACES.items()
        }
        for trace, days in found.items():
            figures |= _means(f"{name}_{trace}", days)
        figures |= _compared(name, [day for days in found.values() for day in days], bench.seed)
        goals |= {
            f"{name}_missed_ratio": Goal("<=", 0.5),
            f"{name}_core_hours_ratio": Goal("<=", 0.75),
            f"{name}_reversals_per_hour": Goal("<=", 2),
            f"{name}_failed": Goal("==", 0),
        }
        for label, otherwise in _OTHERWISE.items():
            for scaler in ("before", "policy"):
                missed = [
                    fleet(otherwise(day)).play(scaler).missed_minutes for day in bench.each_day(crowds=True)
                ]
                figures[f"{name}_{label}_{scaler}_missed_minutes"] = float(np.mean(missed))
    figures |= _by_utilisation(bench)
    if bench.plot:
        plot(bench.plot, api(bench.each_day(crowds=True)[0]), _points(figures))
    return Result("bench autoscale (simulated)", bench.seed, figures, goals, _NOTES)


def _means(prefix: str, days: Days) -> dict[str, float]:
    """Per day; of reversals the most in any hour of any day."""
    found: dict[str, float] = {}
    for scaler in SCALERS:
        outcomes = [day[scaler] for day in days]
        found |= {
            f"{prefix}_{scaler}_missed_minutes": float(np.mean([o.missed_minutes for o in outcomes])),
            f"{prefix}_{scaler}_bad_percent": 100 * float(np.mean([o.bad_share for o in outcomes])),
            f"{prefix}_{scaler}_failed": float(np.mean([o.failed for o in outcomes])),
            f"{prefix}_{scaler}_core_hours": float(np.mean([o.core_hours for o in outcomes])),
            f"{prefix}_{scaler}_reversals_per_hour": max(o.reversals for o in outcomes),
        }
    return found


def _compared(name: str, days: Days, seed: int) -> dict[str, float]:
    """The policy over what was before, with intervals, and what it must not do."""
    found: dict[str, float] = {}
    for what in ("missed_minutes", "core_hours"):
        ours, before = (_column(days, scaler, what) for scaler in ("policy", "before"))
        with np.errstate(divide="ignore", invalid="ignore"):  # before may have missed none
            ratio = _ratio(ours, before, seed)
        label = f"{name}_{what.removesuffix('_minutes')}_ratio"
        found |= {label: ratio.value, f"{label}_low": ratio.low, f"{label}_high": ratio.high}
    found[f"{name}_reversals_per_hour"] = max(day["policy"].reversals for day in days)
    found[f"{name}_failed"] = sum(day["policy"].failed for day in days)
    return found


def _column(days: Days, scaler: str, what: str) -> Floats:
    return np.array([getattr(day[scaler], what) for day in days], np.float64)


def _ratio(ours: Floats, before: Floats, seed: int) -> Estimate:
    """Of the sums over all days."""

    def ratio(weights: Floats) -> list[float]:
        return [float((weights @ ours) / (weights @ before))]

    return bootstrap(ratio, len(ours), 1_000, seed)[0]


def _by_utilisation(bench: AutoscaleBench) -> dict[str, float]:
    """What the API costs and misses on a day with crowds, by the percentage of a process that is planned with."""
    found: dict[str, float] = {}
    for percent in _PERCENT:
        outcomes = []
        for day in bench.each_day(crowds=True):
            policy = replace(api_policy(day.table), utilisation=percent / 100)
            outcomes.append(api(day, policy).play("policy"))
        for what in ("missed_minutes", "core_hours"):
            mean = float(np.mean([getattr(outcome, what) for outcome in outcomes]))
            found[f"api_crowds_at_{percent}_{what}"] = mean
    return found


def _points(figures: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Core-hours and missed minutes of the API on a day with crowds; of the policy by its percentage."""
    names = {"before": "before", "foresight": "foresight", "at_peak": "at_peak"}
    names |= {f"{percent} %": f"at_{percent}" for percent in _PERCENT}
    return {
        label: (figures[f"api_crowds_{name}_core_hours"], figures[f"api_crowds_{name}_missed_minutes"])
        for label, name in names.items()
    }
