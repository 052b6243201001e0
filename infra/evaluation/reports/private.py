"""The plot of `recsys evaluate private`."""

from pathlib import Path

from infra.evaluation.plotting import pyplot, save
from recsys.result import Result

_SUFFIX = "_click_auc"
_LINES = {
    "plain": "plain",
    "private_inf": "clipped, no noise",
    "video_rate": "rate of the video",
    "creator_rate": "rate of the creator",
}


def plot(result: Result, path: Path) -> None:
    """Click AUC against epsilon, and how well attacks tell members from others."""
    figure, (quality, attacks) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    reached = {
        float(name.removeprefix("private_").removesuffix(_SUFFIX)): value
        for name, value in result.figures.items()
        if name.startswith("private_") and not name.startswith("private_inf")
    }
    epsilons = sorted(reached)
    quality.plot(epsilons, [reached[e] for e in epsilons], marker="o", label="private")
    for colour, (name, label) in enumerate(_LINES.items(), start=1):
        quality.axhline(result.figures[name + _SUFFIX], color=f"C{colour}", linestyle="--", label=label)
    quality.set(xscale="log", xlabel="epsilon (per user)", ylabel="click AUC of the test days")
    quality.legend()
    found = [name for name in result.figures if name.startswith("attack_")]
    labels = [name.removeprefix("attack_").removesuffix("_auc").replace("_", ", ") for name in found]
    attacks.barh(labels, [result.figures[name] - 0.5 for name in found], left=0.5)
    attacks.axvline(0.5, color="black", linewidth=1)
    attacks.set(xlabel="AUC of the membership attack (0.5: guessing)")
    for axes in (quality, attacks):
        axes.grid(visible=True, alpha=0.3)
    save(figure, path)
