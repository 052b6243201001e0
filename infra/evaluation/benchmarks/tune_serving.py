"""`recsys tune serving`: the numbers of processes, threads and requests per batch that answer most on this machine.

The workload is that of `recsys bench serve` without cache hits. Processes and threads are searched together, then the
batch size with the best of them. A setting wins by its saturation, within 5 % of the best by p99 at that rate. The
winner is written as a file of settings that `recsys serve --profile` reads.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from infra.evaluation.benchmarks.load import Load, run_load
from infra.evaluation.benchmarks.saturation import saturate, sustained
from infra.evaluation.benchmarks.serve import NO_CACHES, api, prepare
from infra.evaluation.benchmarks.serving_fixture import bench_items
from infra.evaluation.stream_rig import StreamRig
from infra.terminal import console
from recsys.cores import cores
from recsys.result import Goal, Result

AS_GOOD = 0.95  # of the best saturation: differences below that are noise


@dataclass(frozen=True)
class Setting:
    workers: int
    threads: int
    batch: int = 1

    @property
    def name(self) -> str:
        return f"workers{self.workers}_threads{self.threads}_batch{self.batch}"

    @property
    def environ(self) -> dict[str, str]:
        return {
            "RECSYS_WORKERS": str(self.workers),
            "RECSYS_THREADS": str(self.threads),
            "RECSYS_BATCH": str(self.batch),
        }


@dataclass(frozen=True)
class ServingTuning:
    """`profile`: the file that is written."""

    profile: Path
    seed: int = 0
    items: int = 100_000
    users: int = 100_000
    history_events: int = 100_000
    workers: tuple[int, ...] = ()  # (): one, and one per core
    threads: tuple[int, ...] = (1, 2)
    batches: tuple[int, ...] = (4,)
    first_rate: float = 80.0
    step: float = 1.25
    step_s: float = 4.0

    @classmethod
    def quick(cls, profile: Path, seed: int) -> "ServingTuning":
        return cls(
            profile,
            seed,
            items=4_000,
            history_events=5_000,
            workers=(1,),
            threads=(1, 2),
            first_rate=20.0,
            step=3.0,
            step_s=1.0,
        )


@dataclass(frozen=True)
class _Tried:
    setting: Setting
    saturation_per_s: float
    p99_ms: float


def run(config: ServingTuning) -> Result:
    """Figures `<setting>_saturation_per_s` and `_p99_ms`, and the chosen numbers."""
    items = bench_items(config.items, config.seed)
    with StreamRig() as rig:
        prepare(rig, items, config.users, config.history_events, config.seed)
        tried = [_try(rig, config, setting) for setting in _grid(config)]
        base = best(tried)
        tried += [_try(rig, config, replace(base.setting, batch=batch)) for batch in config.batches]
    chosen = best(tried)
    if chosen.saturation_per_s:
        write_profile(config.profile, chosen.setting.environ)
        console.print(f"written: {config.profile}; use it with `recsys serve --profile {config.profile}`")
    else:
        console.print(f"no rate from {config.first_rate:.0f}/s on was sustained: nothing is written")
    figures: dict[str, float] = {}
    for one in tried:
        figures[f"{one.setting.name}_saturation_per_s"] = one.saturation_per_s
        if one.saturation_per_s:
            figures[f"{one.setting.name}_p99_ms"] = one.p99_ms
    figures |= {
        "chosen_workers": chosen.setting.workers,
        "chosen_threads": chosen.setting.threads,
        "chosen_batch": chosen.setting.batch,
        "chosen_saturation_per_s": chosen.saturation_per_s,
    }
    return Result("tune serving", config.seed, figures, {"chosen_saturation_per_s": Goal(">", 0)})


def best(tried: list[_Tried]) -> _Tried:
    """The one with the shortest tail among those that saturate about as late as the best."""
    most = max(one.saturation_per_s for one in tried)
    return min((t for t in tried if t.saturation_per_s >= AS_GOOD * most), key=lambda t: t.p99_ms)


def write_profile(path: Path, settings: Mapping[str, str]) -> None:
    """Write NAME=value lines, as `recsys serve --profile` and shells read them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (f"{name}={value}\n" for name, value in settings.items())
    path.write_text("".join(lines), encoding="utf-8")


def _grid(config: ServingTuning) -> Iterator[Setting]:
    workers = config.workers or tuple(dict.fromkeys((1, cores())))
    return (Setting(w, t) for w, t in product(workers, config.threads))


def _try(rig: StreamRig, config: ServingTuning, setting: Setting) -> _Tried:
    load = Load(0, config.first_rate, config.step_s, config.users, config.items, seed=config.seed)
    settings = {name: value for name, value in setting.environ.items() if name != "RECSYS_WORKERS"}
    with api(rig, setting.workers, **NO_CACHES, **settings) as served:
        load = replace(load, port=served.port)
        run_load(load)  # warm-up
        console.print(f"{setting.name}:")
        curve = [answers for answers in saturate(load, config.step).values() if sustained(answers)]
    if not curve:
        return _Tried(setting, 0.0, float("inf"))
    last = max(curve, key=lambda answers: answers.per_s)
    return _Tried(setting, last.per_s, last.percentile(99))
