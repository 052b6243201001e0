"""`recsys bench rank`: every variant of the ladder and the eager teacher, timed in one run on the same cores.

500 candidates of one request, and eight such requests waiting, each on one thread and on two, by every installed
runtime. Forms take turns in every round. The roofline says how far the served form is from what this machine's
arithmetic and memory allow, both measured here.
"""

import statistics
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from infra.evaluation.benchmarks.runtimes import Inputs, runs
from infra.evaluation.timing import seconds
from recsys.contracts.errors import InvalidData
from recsys.models.ranker import Ranker, ServedRanker
from recsys.ranking.scorer import INPUTS
from recsys.result import Goal, Result
from training.compression.variants import candidate, read_variants
from training.ranker.artifacts import trained_ranker
from training.ranker.export import random_inputs

CANDIDATES, REQUESTS, LENGTH = 500, 8, 50


@dataclass(frozen=True)
class RankBench:
    """`ladder`: the folder of `recsys train ladder`."""

    ladder: Path
    seed: int = 0
    rounds: int = 30
    calls: int = 5  # of each variant in a round; the teacher is called once

    @classmethod
    def quick(cls, ladder: Path, seed: int) -> "RankBench":
        return cls(ladder, seed, rounds=5)


def run(config: RankBench) -> Result:
    """
    Raises:
        InvalidData: there is no finished ladder.
    """
    variants = read_variants(config.ladder)
    if len(variants) < 2:
        raise InvalidData(f"{config.ladder}: no ladder; build it with `recsys train ladder`")
    torch.set_num_threads(1)
    teacher = trained_ranker(config.ladder / "teacher")
    inputs = random_inputs(
        teacher.data.n_items, teacher.data.n_features, LENGTH, CANDIDATES, np.random.default_rng(config.seed)
    )
    about = candidate(variants)
    chosen = about.name
    files = {variant.name: config.ladder / variant.name for variant in variants}
    student = trained_ranker(config.ladder / "student")
    one, two = (runs(files, "pruned", threads) for threads in (1, 2))
    forms: dict[str, Callable[[], object]] = {
        "eager_teacher": _eager(teacher, inputs),
        "eager_student": _eager(student, inputs),
    }
    forms |= {name: partial(call, inputs) for name, call in one.items()}
    forms |= {f"{name}_2_threads": partial(call, inputs) for name, call in two.items()}
    times = _timed(forms, config)

    figures: dict[str, float] = {}
    for name, taken in times.items():
        low, middle, high = np.percentile(np.array(taken) * 1e3, [0, 50, 99])
        figures |= {f"{name}_min_ms": low, f"{name}_p50_ms": middle, f"{name}_p99_ms": high}
    for variant in variants:
        figures[f"{variant.name}_mb"] = variant.bytes / 1e6
    for name, call in one.items():
        for threads in (1, 2):
            rate = _throughput(partial(call, inputs), threads, 5 if name == "teacher" else config.rounds)
            figures[f"{name}_8_requests_{threads}_threads_per_s"] = rate
    figures |= _roofline(student, inputs, figures[f"{chosen}_p50_ms"])
    figures |= {
        "served_mb": figures[f"{chosen}_mb"],
        "served_p50_ms": figures[f"{chosen}_p50_ms"],
        "served_min_ms": figures[f"{chosen}_min_ms"],
        "eager_teacher_over_served": figures["eager_teacher_p50_ms"] / figures[f"{chosen}_p50_ms"],
        "served_overlap": about.overlap,
        "served_passed_gate": float(not about.reasons),
    }
    goals = {
        "teacher_mb": Goal(">=", 200),
        "served_mb": Goal("<=", 5),
        "served_p50_ms": Goal("<=", 1.2),
        "eager_teacher_over_served": Goal(">=", 40),
        "served_overlap": Goal(">=", 0.98),
        "served_passed_gate": Goal("==", 1),
    }
    return Result("bench rank", config.seed, figures, goals)


def _eager(ranker: Ranker, inputs: Inputs) -> Callable[[], object]:
    served_form = ServedRanker(ranker).eval()
    tensors = [torch.from_numpy(inputs[name]) for name in INPUTS]

    def call() -> object:
        with torch.inference_mode():
            return served_form(*tensors)

    return call


def _timed(forms: Mapping[str, Callable[[], object]], config: RankBench) -> dict[str, list[float]]:
    """Seconds of each call, after two calls to warm up; the forms take turns."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for form in forms.values():
        form()
        form()
    for _ in range(config.rounds):
        for name, form in forms.items():
            times[name] += [seconds(form) for _ in range(1 if "teacher" in name else config.calls)]
    return times


def _throughput(call: Callable[[], object], threads: int, rounds: int) -> float:
    """Requests per second when eight are waiting; the median of `rounds` times eight."""
    with ThreadPoolExecutor(threads) as pool:
        times = [seconds(lambda: list(pool.map(lambda _: call(), range(REQUESTS)))) for _ in range(rounds)]
    return REQUESTS / statistics.median(times)


def _roofline(student: Ranker, inputs: Inputs, p50_ms: float) -> dict[str, float]:
    """Operations and bytes of one served request against this machine's measured peaks.

    Operations are counted on the torch student (pruning makes the served one smaller still); bytes are the inputs and
    every weight but the item rows, of which only those of the request are read.
    """
    with FlopCounterMode(display=False) as counter:
        _eager(student, inputs)()
    flops = float(counter.get_total_flops())
    item_rows = sum(p.numel() for p in student.item.parameters())
    dense = 4 * (sum(p.numel() for p in student.parameters()) - item_rows)
    touched = dense + sum(array.nbytes for array in inputs.values())
    peak_flops, peak_bytes = _peak_flops(), _peak_bytes()
    bound_ms = 1e3 * max(flops / peak_flops, touched / peak_bytes)
    return {
        "roofline_mflop": flops / 1e6,
        "roofline_mb": touched / 1e6,
        "machine_gflops": peak_flops / 1e9,
        "machine_gb_per_s": peak_bytes / 1e9,
        "roofline_bound_ms": bound_ms,
        "served_share_of_roofline": bound_ms / p50_ms,
    }


def _peak_flops(n: int = 768) -> float:
    a = torch.rand(n, n)
    return 2 * n**3 / min(seconds(lambda: a @ a) for _ in range(10))


def _peak_bytes(size: int = 64_000_000) -> float:
    a = torch.zeros(size, dtype=torch.uint8)
    b = torch.empty_like(a)
    return 2 * size / min(seconds(lambda: b.copy_(a)) for _ in range(10))
