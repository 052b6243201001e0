"""`recsys bench serve --compare`: two settings of the API on one set of servers, in turns.

Both have the bundle, the store, the worker and the load in common. Figures at half of saturation are at half of each
one's own. Each round measures both, in changing order, since a shared machine drifts; medians over the rounds are
reported, and the median of each round's ratio.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from infra.evaluation.benchmarks.serve import ServeBench, goals, measure_path, prepared_floors
from infra.evaluation.benchmarks.serving_fixture import bench_items
from infra.evaluation.stream_rig import StreamRig
from infra.terminal import console
from recsys.result import Goal, Result

_COMPARED = (
    "saturation_", "cached_saturation_", "half_p", "half_cpu_", "half_compiled_", "half_distinct_share",
    "overload_p99", "path_", "fresh_p", "memory_",
)  # fmt: skip


@dataclass(frozen=True)
class Side:
    """`settings`: environment of the API."""

    name: str
    settings: Mapping[str, str]


REFERENCE = Side("reference", {"RECSYS_NATIVE": "off"})
NATIVE = Side("native", {"RECSYS_NATIVE": "on"})


def run(config: ServeBench, a: Side, b: Side, rounds: int) -> Result:
    """Figures `<side>_<figure>` and `ratio_<figure>` (b / a); the goals are b's."""
    items = bench_items(config.items, config.seed)
    found: dict[str, list[Mapping[str, float]]] = {a.name: [], b.name: []}
    with StreamRig() as rig:
        figures = prepared_floors(rig, config, items)
        for n in range(rounds):
            for side in (a, b) if n % 2 == 0 else (b, a):
                console.print(f"round {n + 1} of {rounds}, {side.name}:")
                measured = measure_path(rig, config, items, figures["floor_total_ms"], **side.settings)
                found[side.name].append(measured.figures)
    figures |= compared(a.name, found[a.name], b.name, found[b.name])
    wanted = goals(config) | ({"half_compiled_share": Goal(">=", 0.99)} if b is NATIVE else {})
    b_goals = {f"{b.name}_{name}": goal for name, goal in wanted.items()}
    return Result("bench serve", config.seed, figures, {k: v for k, v in b_goals.items() if k in figures})


def compared(
    a: str, of_a: Sequence[Mapping[str, float]], b: str, of_b: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Medians of both sides over the rounds, and of the ratios of each round; nan where a figure of `a` is 0."""
    figures: dict[str, float] = {}
    for name in of_a[0]:
        if not name.startswith(_COMPARED):
            continue
        pairs = [(x[name], y[name]) for x, y in zip(of_a, of_b, strict=True)]
        figures[f"{a}_{name}"] = median(x for x, _ in pairs)
        figures[f"{b}_{name}"] = median(y for _, y in pairs)
        figures[f"ratio_{name}"] = median(y / x if x else float("nan") for x, y in pairs)
    return figures
