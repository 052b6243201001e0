"""The plots of the case study, as PNG: every row, response times, and what each step buys."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from infra.evaluation.case_study.rows import EFFECT_METRICS, PROMISES
from infra.evaluation.case_study.section import Found
from infra.evaluation.plotting import pyplot as plt

BEFORE_COLOUR, AFTER_COLOUR = "#8a8a8a", "#2a6fbb"


def plots(rows: Sequence[Mapping[str, Any]], found: Mapping[str, Found]) -> dict[str, bytes]:
    """PNGs of what was measured, by title."""
    drawn = {"After against before, row by row": _png(partial(_bars, rows=rows), (10, 6))}
    for each in found.values():
        if "response_ms" in each.data:
            draw = partial(_distribution, ms=each.data["response_ms"])
            drawn["Response times at equal load"] = _png(draw, (10, 4))
        if "metrics" in each.data:
            draw = partial(_intervals, against=each.data)
            drawn["The A/B test (simulated)"] = _png(draw, (10, 4))
        if "steps" in each.data:
            drawn["What each step buys"] = _png(partial(_staircase, steps=each.data["steps"]), (10, 5))
    return drawn


def _png(draw: Callable[[Axes], object], size: tuple[float, float]) -> bytes:
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    draw(axes)
    out = BytesIO()
    figure.savefig(out, format="png", dpi=110)
    plt.close(figure)
    return out.getvalue()


def _bars(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """After as a share of before, logarithmic; the promise as a mark."""
    shown = [row for row in rows if row["change"] is not None]
    names = [row["row"].replace("_", " ") for row in shown]
    ratios = [max(1 + row["change"], 1e-4) for row in shown]
    colours = [AFTER_COLOUR if row["met"] else "#c44e52" for row in shown]
    axes.barh(names, np.array(ratios) - 1, left=1, color=colours)
    promised = [1 + row["promised"] for row in shown]
    axes.plot(promised, names, "k|", markersize=14, label="promised")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="after / before (red: our own goal was missed)")
    axes.invert_yaxis()
    axes.legend()


def _intervals(axes: Axes, against: Mapping[str, Any]) -> None:
    """The changes with their 95 % intervals, against both controls, and what was promised."""
    rows = [(row, metric) for row, metric in EFFECT_METRICS.items() if metric in against["metrics"]]
    controls = (("metrics", "against before", AFTER_COLOUR), ("fair", "against a fair before", BEFORE_COLOUR))
    for n, (key, label, colour) in enumerate(controls):
        found = [
            (place, against[key][metric]) for place, (_, metric) in enumerate(rows) if metric in against[key]
        ]
        if found:
            changes = np.array([x["change"] for _, x in found])
            ends = [[x["change"] - x["low"] for _, x in found], [x["high"] - x["change"] for _, x in found]]
            places = [place + 0.2 * n for place, _ in found]
            axes.errorbar(changes, places, xerr=ends, fmt="o", color=colour, label=label, capsize=4)
    promised = {promise.row: promise.promised for promise in PROMISES}
    axes.plot([promised[row] for row, _ in rows], range(len(rows)), "k|", markersize=18, label="promised")
    axes.set_yticks(range(len(rows)), [row for row, _ in rows])
    axes.set(xlabel="change (95 % interval by user)")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.legend()


def seeds_plot(effects: Sequence[Mapping[str, Any]]) -> bytes:
    """PNG: the changes of several seeds with their 95 % intervals, against both controls."""
    rows = [row["row"] for row in effects[0]["rows"]]
    promised = {promise.row: promise.promised for promise in PROMISES}

    def draw(axes: Axes) -> None:
        for key, label, colour in (
            ("rows", "against before", AFTER_COLOUR),
            ("parts", "against a fair before", BEFORE_COLOUR),
        ):
            found = [
                (rows.index(row["row"]) + 0.12 * n + (0.06 if key == "parts" else 0.0), row)
                for n, effect in enumerate(effects)
                for row in effect[key]
            ]
            changes = np.array([row["change"] for _, row in found])
            low, high = np.array([row["interval"] for _, row in found]).T
            places = [place for place, _ in found]
            axes.errorbar(
                changes, places, xerr=[changes - low, high - changes], fmt="o", color=colour, label=label
            )
        axes.plot([promised[row] for row in rows], range(len(rows)), "k|", markersize=22, label="promised")
        seeds = ", ".join(str(effect["seed"]) for effect in effects)
        axes.set(xlabel=f"change with its 95 % interval by user; one line for each seed: {seeds} (simulated)")
        axes.set_yticks(range(len(rows)), rows)
        axes.set_xscale("symlog", linthresh=0.5)
        axes.set_xticks(
            [0, 0.1, 0.2, 0.3, 0.5, 1, 2], ["0", "+10 %", "+20 %", "+30 %", "+50 %", "+100 %", "+200 %"]
        )
        axes.grid(visible=True, axis="x", alpha=0.3)
        axes.invert_yaxis()
        axes.legend()

    return _png(draw, (10, 4.5))


def _distribution(axes: Axes, ms: Mapping[str, Sequence[float]]) -> None:
    for (name, values), colour in zip(ms.items(), (BEFORE_COLOUR, AFTER_COLOUR), strict=False):
        ordered = np.sort(values)
        axes.plot(ordered, np.arange(1, len(ordered) + 1) / len(ordered), color=colour, label=name)
    axes.set(xscale="log", xlabel="milliseconds from when due", ylabel="share of the requests", ylim=(0, 1))
    axes.grid(visible=True, alpha=0.3)
    axes.legend()


def _staircase(axes: Axes, steps: Sequence[Mapping[str, Any]]) -> None:
    names = [step["name"] for step in steps]
    at = np.arange(len(names))
    for name, label, shift, colour in (
        ("p50_ms", "p50 (ms)", -0.3, AFTER_COLOUR),
        ("p99_ms", "p99 (ms)", 0.0, "#7fb0de"),
        ("api_cpu_ms", "processor time of the API per request (ms)", 0.3, BEFORE_COLOUR),
    ):
        axes.bar(at + shift, [step[name] for step in steps], 0.28, label=label, color=colour)
    axes.set(yscale="log", ylabel="milliseconds", xticks=at, xticklabels=names)
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.legend()
