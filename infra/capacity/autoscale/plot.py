"""The plot of `recsys bench autoscale`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from infra.capacity.autoscale.fleets import Fleet
from infra.evaluation.plotting import pyplot, save


def plot(path: Path, fleet: Fleet, points: Mapping[str, tuple[float, float]]) -> None:
    """Left: pods over a day. Right: core-hours against missed minutes; those of the policy are a line."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    hours = np.arange(len(fleet.trace)) / 3_600
    left.fill_between(
        hours, fleet.trace / fleet.policy.rate, color="C7", alpha=0.4, label="load, in whole processes"
    )
    for name, label in (("before", "before"), ("policy", "the policy")):
        left.plot(hours, fleet.play(name).pods, label=label)
    left.set(xlabel="hour of a day with flash crowds", ylabel="pods of the API", title="simulated")
    left.legend()
    ours = {name: point for name, point in points.items() if name.endswith("%")}
    right.plot(*zip(*ours.values(), strict=True), marker="o", label="the policy, by utilisation")
    for name, point in points.items():
        if name not in ours:
            right.plot(*point, "s", label=name.replace("_", " "))
        right.annotate(
            name if name in ours else "", point, textcoords="offset points", xytext=(5, 5), fontsize=8
        )
    right.set(
        xlabel="core-hours per day", ylabel="minutes that missed the objective, per day", title="simulated"
    )
    right.grid(alpha=0.3)
    right.legend()
    save(figure, path, dpi=110)
