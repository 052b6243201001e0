"""`recsys ab report`: one experiment, read from the lake, with the checks that say whether to trust it.

Writes `report.md` and three plots: arms over time, lifts with their intervals, users' distributions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from infra.evaluation.plotting import pyplot, save
from recsys.contracts.errors import InvalidData
from recsys.experiments.analysis import Lift
from recsys.experiments.comparison import (
    WRONG_SPLIT,
    CatalogueLift,
    catalogue_lifts,
    comparable,
    control_of,
    false_positive_rate,
    lifts,
    split_p,
)
from recsys.experiments.outcomes import METRICS, Outcomes, outcomes_by_day
from recsys.result import Goal, Result

AA_TESTS = 1_000  # the rate found is within 1.4 points of the true one, 19 times out of 20

_WRONG = ": **the split is not as planned; trust none of this.**"


@dataclass(frozen=True)
class AbReport:
    """`control` empty: the arm of that name, else the first by name."""

    lake: Path
    experiment: str
    out: Path
    control: str = ""
    seed: int = 0
    aa_tests: int = AA_TESTS


@dataclass
class _Day:
    day: str
    lifts: Mapping[str, Mapping[str, Lift]]  # arm → metric
    values: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # metric → arm

    @staticmethod
    def sequential_p(days: "list[_Day]", arm: str, name: str) -> float:
        return min(day.lifts[arm][name].always_valid_p for day in days if name in day.lifts.get(arm, {}))


def report(config: AbReport) -> Result:
    """Read, compare, write.

    Raises:
        InvalidData: the lake has no impression of the experiment, or only one arm.
        InvalidConfig: there is no such control.
    """
    days: list[_Day] = []
    outcomes: Outcomes | None = None
    for outcomes in outcomes_by_day(config.lake, config.experiment):
        control = control_of(outcomes, config.control)
        treatments = [arm for arm in outcomes.arms if arm != control]
        found = {a: lifts(outcomes, control, a) for a in treatments if comparable(outcomes, control, a)}
        days.append(_Day(outcomes.day, found, _values(outcomes)))
    if outcomes is None or not days[-1].lifts:
        raise InvalidData(
            f"{config.experiment}: one arm only, or fewer than two users in an arm; nothing to compare"
        )
    rng = np.random.default_rng(config.seed)
    wide = {arm: catalogue_lifts(outcomes, control, arm, rng) for arm in days[-1].lifts}
    false_positives = false_positive_rate(outcomes, rng, config.aa_tests)
    figures = _figures(outcomes, days, wide, false_positives)
    _plot_days(days, config.out / "arms-over-time.svg")
    _plot_lifts(days[-1].lifts, wide, config.out / "lifts.svg")
    _plot_users(outcomes, config.out / "users.svg")
    text = markdown(config, outcomes, control, days, wide, false_positives)
    (config.out / "report.md").write_text(text, encoding="utf-8")
    return Result(
        f"ab report {config.experiment}",
        config.seed,
        figures,
        {"split_p": Goal(">=", WRONG_SPLIT), "aa_false_positive_error": Goal("<=", 0.02)},
    )


def _values(outcomes: Outcomes) -> dict[str, dict[str, float]]:
    values: dict[str, dict[str, float]] = {name: {} for name in METRICS}
    for i, arm in enumerate(outcomes.arms):
        for name, metric in METRICS.items():
            below = outcomes.sums[metric.denominator][outcomes.arm == i].sum()
            above = outcomes.sums[metric.numerator][outcomes.arm == i].sum()
            values[name][arm] = float(above / below) if below else float("nan")
    return values


def _figures(
    outcomes: Outcomes,
    days: list[_Day],
    wide: Mapping[str, Mapping[str, CatalogueLift]],
    false_positives: Mapping[str, float],
) -> dict[str, float]:
    figures: dict[str, float] = {
        "days": len(days),
        "users": len(outcomes.arm),
        "crossed_users": outcomes.crossed,
        "split_p": split_p(outcomes),
    }
    for arm, found in days[-1].lifts.items():
        for name, lift in found.items():
            figures |= _interval_figures(f"{arm}_{name}", lift) | {
                f"{arm}_{name}_p": lift.p,
                f"{arm}_{name}_sequential_p": _Day.sequential_p(days, arm, name),
                f"{arm}_{name}_cohens_d": lift.cohens_d,
                f"{arm}_{name}_detectable": lift.detectable,
                f"{arm}_{name}_variance_kept": lift.variance_kept,
            }
        for name, whole in wide[arm].items():
            figures |= _interval_figures(f"{arm}_{name}", whole)
    figures |= {f"aa_{name}": rate for name, rate in false_positives.items()}
    rate = float(np.mean(list(false_positives.values())))
    figures |= {"aa_false_positive_rate": rate, "aa_false_positive_error": abs(rate - 0.05)}
    return figures


def _interval_figures(name: str, x: Lift | CatalogueLift) -> dict[str, float]:
    return {f"{name}_lift": x.relative, f"{name}_low": x.low, f"{name}_high": x.high}


def markdown(
    config: AbReport,
    outcomes: Outcomes,
    control: str,
    days: list[_Day],
    wide: Mapping[str, Mapping[str, CatalogueLift]],
    false_positives: Mapping[str, float],
) -> str:
    """The report's text."""
    counts = np.bincount(outcomes.arm, minlength=len(outcomes.arms))
    split = split_p(outcomes)
    lines = [
        f"# {config.experiment}",
        "",
        f"{days[0].day} to {days[-1].day}; control: {control}; users: "
        + ", ".join(f"{arm} {n}" for arm, n in zip(outcomes.arms, counts, strict=True))
        + f"; left out because seen in two arms: {outcomes.crossed}.",
        f"Sample ratio: p = {split:.3g}{_WRONG if split < WRONG_SPLIT else ', as planned.'}",
        "",
    ]
    for arm, found in days[-1].lifts.items():
        lines += [
            f"## {arm} against {control}",
            "",
            "| metric | control | arm | lift, 95 % interval | p | sequential p | Cohen's d | detectable |"
            " variance kept by CUPED |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for name, x in found.items():
            sequential = _Day.sequential_p(days, arm, name)
            lines.append(
                f"| {name} | {x.control:.4g} | {x.treatment:.4g} | {_interval(x)} | {x.p:.3g} | {sequential:.3g}"
                f" | {x.cohens_d:.3f} | {x.detectable:.1%} | {x.variance_kept:.2f} |"
            )
        for name, w in wide[arm].items():
            lines.append(f"| {name} | {w.control:.4g} | {w.treatment:.4g} | {_interval(w)} | | | | | |")
        lines.append("")
    lines += [
        f"A/A check, {config.aa_tests} random halves of these users: "
        + ", ".join(f"{name} {rate:.1%}" for name, rate in false_positives.items())
        + " have p < 0.05; about 5 % should.",
        "",
        *(f"* {name}: {metric.meaning}." for name, metric in METRICS.items()),
        "* coverage: share of all shown items that the arm has shown; evenness: 1 - Gini of their impressions.",
        "",
        "![arms over time](arms-over-time.svg) ![lifts](lifts.svg) ![users](users.svg)",
        "",
    ]
    return "\n".join(lines)


def _interval(x: Lift | CatalogueLift) -> str:
    return f"{x.relative:+.1%} [{x.low:+.1%}, {x.high:+.1%}]"


def _plot_days(days: list[_Day], path: Path) -> None:
    names = [name for name in ("ctr", "cvr", "dwell_per_session_s") if name in days[-1].values]
    figure, axes = pyplot.subplots(1, len(names), figsize=(4 * len(names), 3))
    for axis, name in zip(np.atleast_1d(axes), names, strict=True):
        for arm in days[-1].values[name]:
            axis.plot([day.values[name].get(arm, np.nan) for day in days], "o-", label=arm)
        axis.set(title=name, xlabel="days, cumulative")
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[0].legend()
    _save(figure, path)


def _plot_lifts(
    found: Mapping[str, Mapping[str, Lift]], wide: Mapping[str, Mapping[str, CatalogueLift]], path: Path
) -> None:
    rows: list[tuple[str, Lift | CatalogueLift]] = []
    for arm in found:
        rows += [(f"{arm}: {name}", lift) for name, lift in found[arm].items()]
        rows += [(f"{arm}: {name}", whole) for name, whole in wide[arm].items()]
    figure, axis = pyplot.subplots(figsize=(7, 0.4 * len(rows) + 1))
    for y, (_, x) in enumerate(reversed(rows)):
        axis.plot([100 * x.low, 100 * x.high], [y, y], color="tab:blue")
        axis.plot(100 * x.relative, y, "o", color="tab:blue")
    axis.axvline(0, color="grey", linewidth=0.8)
    axis.set_yticks(range(len(rows)), [label for label, _ in reversed(rows)])
    axis.set_xlabel("lift, %, with its 95 % interval")
    axis.grid(alpha=0.3)
    _save(figure, path)


def _plot_users(outcomes: Outcomes, path: Path) -> None:
    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3))
    for axis, (top, bottom, label) in zip(
        axes,
        (("clicks", "lists", "clicks per list"), ("dwell_s", "sessions", "seconds per session")),
        strict=True,
    ):
        for i, arm in enumerate(outcomes.arms):
            there = (outcomes.arm == i) & (outcomes.sums[bottom] > 0)
            values = outcomes.sums[top][there] / outcomes.sums[bottom][there]
            axis.hist(values, bins=30, density=True, histtype="step", label=arm)
        axis.set(xlabel=f"{label}, by user", ylabel="density")
    axes[0].legend()
    _save(figure, path)


def _save(figure: pyplot.Figure, path: Path) -> None:
    figure.tight_layout()
    save(figure, path, metadata={"Date": None})
