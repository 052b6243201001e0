"""The plot of `recsys bench serve`: latency against rate without and with hits, and where a request's time goes."""

from collections.abc import Mapping
from pathlib import Path

from infra.evaluation.benchmarks.load import Answers


def plot_serving(
    path: Path, plain: Mapping[float, Answers], cached: Mapping[float, Answers], figures: Mapping[str, float]
) -> None:
    """`plain` and `cached`: rate → answers; `figures` has the stages' means and the floors."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for name, curve, style in (("no cache hits", plain, "-"), ("70 % hits", cached, "--")):
        for q, colour in ((50, "C0"), (90, "C1"), (99, "C3")):
            rates = list(curve)
            ms = [curve[rate].percentile(q) for rate in rates]
            left.plot(rates, ms, style, color=colour, marker="o", label=f"p{q}, {name}")
    left.set(
        xlabel="requests a second (open load)",
        ylabel="milliseconds from when due",
        xscale="log",
        yscale="log",
    )
    left.grid(visible=True, alpha=0.3)
    left.legend()
    parts = {n[6:-3]: v for n, v in figures.items() if n.startswith("stage_") and n != "stage_total_ms"}
    alone = {n[:-3].replace("_", " "): v for n, v in figures.items() if n.startswith("floor_")}
    names = [*parts, *alone]
    right.barh(names, [*parts.values(), *alone.values()], color=["C0"] * len(parts) + ["C2"] * len(alone))
    right.invert_yaxis()
    right.set(xlabel="milliseconds: mean of a stage at half of saturation; floors alone")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
