"""The plot of `recsys evaluate federated`: quality against payload, and against ε."""

import re
from collections.abc import Mapping
from pathlib import Path

from infra.evaluation.plotting import pyplot, save
from recsys.result import Result


def draw(result: Result, path: Path) -> None:
    """Write both curves, with central training and popularity as lines."""
    figures = result.figures
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    rest = ((int(name), hr10) for name, hr10 in _matches(figures, r"federated_hr10_after_(\d+)_percent"))
    quarters = sorted([*rest, (100, figures["federated_hr10"])])
    total = figures["payload_total_mb"]
    left.plot(
        [total * done / 100 for done, _ in quarters], [hr10 for _, hr10 in quarters], "o-", label="federated"
    )
    left.plot(figures["fedavg_total_mb"], figures["fedavg_hr10"], "s", label="federated averaging, float32")
    left.set(xlabel="MB per client, up and down, in all", ylabel="HR@10")
    private = sorted((float(name), hr10) for name, hr10 in _matches(figures, r"epsilon([\d.]+)_hr10"))
    right.plot([epsilon for epsilon, _ in private], [hr10 for _, hr10 in private], "o-", label="with noise")
    right.axhline(figures["no_noise_hr10"], color="tab:blue", linestyle=":", label="no noise, as many rounds")
    right.set(xscale="log", xlabel=f"ε of a user, δ = {figures['delta']:.1e}")
    right.set_xticks(
        [epsilon for epsilon, _ in private], [f"{epsilon:g}" for epsilon, _ in private], minor=False
    )
    right.minorticks_off()
    for axes in (left, right):
        axes.axhline(figures["central_hr10"], color="black", linestyle="--", label="central")
        axes.axhline(figures["popularity_hr10"], color="grey", linestyle="--", label="popularity")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.tight_layout()
    save(figure, path, dpi=120)


def _matches(figures: Mapping[str, float], pattern: str) -> list[tuple[str, float]]:
    """The part in brackets of each name that matches, and the figure."""
    found = ((re.fullmatch(pattern, name), value) for name, value in figures.items())
    return [(match[1], value) for match, value in found if match]
