"""`recsys tune all`: what to serve within a time and a memory: variant, index, candidates, processes.

1. variant: of the ladder's variants that passed their gates, which decide about quality, the fastest for the most
   candidates.
2. index: the faster one of exact search and what a bundle of this size has, with recall@500 of .99 at least.
3. candidates and processes: the request path under load, as in `recsys bench serve` without cache hits, from most
   candidates to least. The first number with which p99, at half of the saturation, and the memory of all API processes
   stay within the budgets is taken; of the processes and threads with which they do, those that saturate latest.

Settings go to a profile that `recsys serve --profile` reads, and all figures to a JSON file next to it. The load is on
the benchmark's bundle, whose ranker is a compiled student: another variant's time is in the figures, not in the load.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import inf, nan
from pathlib import Path

import numpy as np

from infra.evaluation.benchmarks.load import Load, run_load
from infra.evaluation.benchmarks.process_cost import memory_figures
from infra.evaluation.benchmarks.saturation import saturate, sustained
from infra.evaluation.benchmarks.serve import NO_CACHES, api, prepare
from infra.evaluation.benchmarks.serving_fixture import DIMENSION, LENGTH, bench_items
from infra.evaluation.benchmarks.tune_serving import AS_GOOD, Setting, write_profile
from infra.evaluation.benchmarks.vectors import learnt_like
from infra.evaluation.stream_rig import StreamRig
from infra.terminal import console
from recsys.contracts.errors import InvalidData
from recsys.cores import cores
from recsys.ranking.compiled import open_ranker
from recsys.recall.ann import IndexConfig, choose
from recsys.recall.index_kind import Kind
from recsys.recall.tune import measure, pick
from recsys.result import Goal, Result, to_json
from serving.settings import IndexKind
from training.compression.variants import COMPILED, read_variants
from training.ranker.export import call_ms, random_inputs

_RECALL = 0.99
_MB_PER_MIB = 2**20 / 1e6
_CALLS = 40
_SATURATED = 0.5  # of the saturation, where the time is measured


@dataclass(frozen=True)
class WholeTuning:
    """`budget_ms`: p99 of a recommendation. `budget_mb`: of all API processes. `ladder`: whose variants are compared.
    `profile`: the file that is written."""

    budget_ms: float
    budget_mb: float
    ladder: Path
    profile: Path
    seed: int = 0
    items: int = 100_000
    users: int = 100_000
    history_events: int = 100_000
    queries: int = 50
    candidates: tuple[int, ...] = (1_000, 500, 250, 100)  # most first
    workers: tuple[int, ...] = ()  # (): one, and one per core
    threads: tuple[int, ...] = (1, 2)
    first_rate: float = 40.0
    step: float = 1.4
    step_s: float = 4.0

    def quick(self) -> "WholeTuning":
        return replace(
            self,
            items=4_000,
            history_events=5_000,
            queries=10,
            candidates=(500, 100),
            workers=(1,),
            threads=(1,),
            first_rate=20.0,
            step=3.0,
            step_s=1.0,
        )


@dataclass(frozen=True)
class Tried:
    """p99_ms, mb: infinite where no rate was sustained."""

    candidates: int
    setting: Setting
    saturation_per_s: float = 0.0
    p99_ms: float = inf
    mb: float = inf

    def fits(self, config: WholeTuning) -> bool:
        return self.p99_ms <= config.budget_ms and self.mb <= config.budget_mb

    def environ(self, index: IndexKind) -> dict[str, str]:
        """The profile's settings."""
        own = {"RECSYS_CANDIDATES": str(self.candidates), "RECSYS_INDEX": str(index)}
        return {**self.setting.environ, **own}

    @property
    def figures(self) -> dict[str, float]:
        name = f"candidates{self.candidates}_{self.setting.name}"
        found = {"saturation_per_s": self.saturation_per_s, "p99_ms": self.p99_ms, "mb": self.mb}
        return {f"{name}_{what}": value for what, value in found.items() if value < inf}


def run(config: WholeTuning) -> Result:
    """Raises `InvalidData`: there is no ladder."""
    ms = variants_ms(config)
    variant = min(ms, key=lambda name: ms[name])
    index = _index(config)
    tried: list[Tried] = []
    with StreamRig() as rig:
        prepare(rig, bench_items(config.items, config.seed), config.users, config.history_events, config.seed)
        for candidates in config.candidates:
            tried += [_try(rig, config, candidates, setting, index) for setting in _settings(config)]
            if any(one.fits(config) for one in tried):
                break
    chosen = best(tried, config)
    figures = {f"variant_{name}_ms": value for name, value in ms.items()}
    for one in tried:
        figures |= one.figures
    figures |= {
        "chosen_candidates": chosen.candidates if chosen else 0,
        "chosen_workers": chosen.setting.workers if chosen else 0,
        "chosen_threads": chosen.setting.threads if chosen else 0,
        "chosen_index_exact": float(index is IndexKind.EXACT),
        "chosen_saturation_per_s": chosen.saturation_per_s if chosen else 0.0,
        "chosen_p99_ms": chosen.p99_ms if chosen else nan,
        "chosen_mb": chosen.mb if chosen else nan,
    }
    goals = {
        "chosen_p99_ms": Goal("<=", config.budget_ms),
        "chosen_mb": Goal("<=", config.budget_mb),
    }
    notes = [f"variant: {variant}, the fastest of those that passed their gates"]
    if variant != COMPILED:
        notes.append(f"the load was measured with {COMPILED}, not with {variant}")
    result = Result("tune all", config.seed, figures, goals, notes)
    if chosen:
        write_profile(config.profile, chosen.environ(index))
        evidence = config.profile.with_suffix(".json")
        evidence.write_text(to_json(result.to_dict(), indent=2), encoding="utf-8")
        console.print(f"written: {config.profile}; use it with `recsys serve --profile {config.profile}`")
    else:
        console.print("nothing fits the budgets, and nothing is written: the figures say what comes close")
    return result


def variants_ms(config: WholeTuning) -> Mapping[str, float]:
    """Median milliseconds of one request's most candidates on one thread, by the variants that passed their gates."""
    passed = [v.name for v in read_variants(config.ladder) if v.gated and not v.reasons]
    if not passed:
        raise InvalidData(f"{config.ladder}: no variant that passed; build them with `recsys train ladder`")
    found = {}
    for name in passed:
        ranker = open_ranker(config.ladder / name)
        rng = np.random.default_rng(config.seed)
        inputs = random_inputs(1_000, ranker.n_features or 1, LENGTH, config.candidates[0], rng)
        ranker.run(inputs)
        found[name] = float(np.median(call_ms(ranker, inputs, _CALLS)))
    return found


def _index(config: WholeTuning) -> IndexKind:
    vectors = learnt_like(config.items, DIMENSION, config.queries, config.seed)
    configs = list(dict.fromkeys((IndexConfig(Kind.FLAT), choose(config.items))))
    found = pick(list(measure(vectors.items, vectors.queries, configs)), _RECALL)
    assert found is not None  # noqa: S101 - exact search has all
    return IndexKind.EXACT if found.config.kind is Kind.FLAT else IndexKind.BUNDLE


def _settings(config: WholeTuning) -> Iterator[Setting]:
    workers = config.workers or tuple(dict.fromkeys((1, cores())))
    return (Setting(w, t) for w, t in product(workers, config.threads))


def _try(rig: StreamRig, config: WholeTuning, candidates: int, setting: Setting, index: IndexKind) -> Tried:
    load = Load(0, config.first_rate, config.step_s, config.users, config.items, seed=config.seed)
    settings = Tried(candidates, setting).environ(index)
    del settings["RECSYS_WORKERS"]  # an argument of its own
    console.print(f"{candidates} candidates, {setting.name}:")
    with api(rig, setting.workers, **NO_CACHES, **settings) as served:
        load = replace(load, port=served.port)
        run_load(load)  # warm-up
        saturation = max((a.per_s for a in saturate(load, config.step).values() if sustained(a)), default=0)
        if not saturation:
            return Tried(candidates, setting)
        half = run_load(replace(load, rate=_SATURATED * saturation, seed=config.seed + 100))
        memory = memory_figures({"api": served.process.pid})["memory_api_tree_pss_mib"]
    return Tried(candidates, setting, saturation, half.percentile(99), memory * _MB_PER_MIB)


def best(tried: Sequence[Tried], config: WholeTuning) -> Tried | None:
    """Of those within the budgets: most candidates, then throughput, where 5 % are noise, then the least memory."""
    fit = [one for one in tried if one.fits(config)]
    most = [one for one in fit if one.candidates == max(other.candidates for other in fit)]
    fast = [
        one for one in most if one.saturation_per_s >= AS_GOOD * max(other.saturation_per_s for other in most)
    ]
    return min(fast, key=lambda one: one.mb, default=None)
