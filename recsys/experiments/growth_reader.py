"""Read the outcomes of an experiment's arms over time from the lake.

    python -m recsys.experiments.growth_reader LAKE EXPERIMENT

prints a `Growth` as JSON. The API runs it as a process of its own, because reading days of events would slow down
requests. `recsys ab report` has the same figures and more.
"""

import contextlib
import os
import sys
from pathlib import Path

from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE
from recsys.experiments.analysis import Lift
from recsys.experiments.comparison import comparable, control_of, estimates, lifts, split_p
from recsys.experiments.growth import AgainstControl, ArmGrowth, Growth, Interval
from recsys.experiments.outcomes import METRICS, Outcomes, first_impression, outcomes_by_step
from recsys.lake.lake import IMPRESSIONS, TIME, days, read_day

# Time between two looks: the shortest that gives at most `LOOKS` of them.
STEPS_MS = (
    *(minutes * MS_PER_MINUTE for minutes in (1, 5, 15)),
    *(hours * MS_PER_HOUR for hours in (1, 3, 12)),
)
LOOKS = 24


def growth(lake: Path, experiment: str) -> Growth:
    """
    Raises:
        InvalidData: a file of the lake cannot be read.
    """
    first = first_impression(lake, experiment)
    if first is None:
        return Growth(experiment=experiment)
    newest_ms = read_day(lake, days(lake, IMPRESSIONS)[-1], IMPRESSIONS, []).column(TIME)[-1].as_py()
    looks = list(outcomes_by_step(lake, experiment, _step_ms(newest_ms - first[1])))
    last = looks[-1][1]
    control = control_of(last)
    return Growth(
        experiment=experiment,
        control=control,
        looks_ms=[at_ms for at_ms, _ in looks],
        newest_ms=newest_ms,
        arms=[
            _arm([o for _, o in looks], name, share, control)
            for name, share in zip(last.arms, last.shares, strict=True)
        ],
        split_p=split_p(last),
        crossed=last.crossed,
        metrics={name: metric.meaning for name, metric in METRICS.items()},
    )


def _step_ms(span_ms: int) -> int:
    return next((step for step in STEPS_MS if span_ms <= LOOKS * step), MS_PER_DAY)


def _arm(looks: list[Outcomes], name: str, share: float, control: str) -> ArmGrowth:
    there = [look if name in look.arms else None for look in looks]
    found = [estimates(look, name) if look else {} for look in there]
    return ArmGrowth(
        name=name,
        share=share,
        users=[_sum(look, name, "users") for look in there],
        lists=[_sum(look, name, "lists") for look in there],
        impressions=[_sum(look, name, "impressions") for look in there],
        metrics={
            metric: [
                Interval.model_validate(e[metric], from_attributes=True) if metric in e else None
                for e in found
            ]
            for metric in METRICS
        },
        lifts={} if name == control else _lifts(looks, control, name),
    )


def _sum(look: Outcomes | None, arm: str, what: str) -> int:
    return int(look.sums[what][look.arm == look.arms.index(arm)].sum()) if look else 0


def _lifts(looks: list[Outcomes], control: str, arm: str) -> dict[str, AgainstControl]:
    each: list[dict[str, Lift]] = [
        lifts(look, control, arm)
        for look in looks
        if {control, arm} <= set(look.arms) and comparable(look, control, arm)
    ]
    return {
        metric: AgainstControl(
            relative=lift.relative,
            low=lift.low,
            high=lift.high,
            p=lift.p,
            sequential_p=min(found[metric].always_valid_p for found in each if metric in found),
        )
        for metric, lift in (each[-1] if each else {}).items()
    }


def main(lake: str, experiment: str) -> None:
    """Run at the lowest priority, as the first process to be killed when memory runs out."""
    os.nice(10)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    sys.stdout.write(growth(Path(lake), experiment).model_dump_json())


if __name__ == "__main__":
    main(*sys.argv[1:])
