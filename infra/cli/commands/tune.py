"""`recsys tune`: search for better parameters within limits."""

from pathlib import Path
from typing import Annotated

import typer

from infra.cli.options import refuse
from infra.cli.training_options import Changes, ConfigFile, ShowConfig, TrainingOptions
from infra.terminal import JsonFlag, QuickFlag, console, epochs_bar, finish
from recsys.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Search for better parameters within limits.")


@app.callback()
def _group() -> None:
    """Search for better parameters."""


@app.command()
def rank(
    ctx: typer.Context,
    trials: Annotated[
        int, typer.Option(min=1, help="Students to try, including those of an earlier run.")
    ] = 30,
    max_mb: Annotated[
        float, typer.Option(min=0.01, help="Largest file size, with embedding rows in INT8.")
    ] = 5.0,
    max_ms: Annotated[float, typer.Option(min=0.01, help="Longest time for 500 candidates.")] = 1.2,
    lake: Annotated[
        bool, typer.Option("--lake", help="Use the lake's examples instead of synthetic ids.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of data, sampler and training.")] = 0,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Search the small ranker's shape and training with Optuna, within a size and a latency; plot the Pareto front.

    Distils the teacher of `recsys train ladder` (trained first if there is none). An interrupted study continues.
    The best student is written for `recsys train ladder --student`.

    Example: recsys tune rank --trials 30 --max-mb 5 --max-ms 1.2
    """
    refuse(ctx, quick, ["trials"], "--quick tries 3 students")
    from training.compression.configs import ladder_setup
    from training.compression.tune import RankTuning, main

    settings = Settings()
    config, given = ladder_setup(settings, lake=lake, quick=quick, seed=seed)
    out = settings.home / "work" / f"tune-{config.out.name}"
    tuning = RankTuning(out=out, trials=3 if quick else trials, max_mb=max_mb, max_ms=max_ms, seed=seed)
    finish(main(tuning, config, given, report=console.print), as_json)


@app.command()
def recall(
    minutes: Annotated[float, typer.Option(min=0.01, help="Minutes of this search.")] = 30.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampler.")] = 0,
    file: ConfigFile = None,
    changes: Changes = None,
    show: ShowConfig = False,
    as_json: JsonFlag = False,
) -> None:
    """Search the two-tower's shape and training with Optuna on the lake's held-out events.

    Starts from what `recsys train recall` would train. Run it again to continue, also after an interruption. The best
    settings are written for `recsys train recall --config`, if they gain on held-out events that did not choose them.

    Example: recsys tune recall --minutes 60
    """
    from infra.cli.training_plans import recall_plan
    from training.two_tower.tune import RecallTuning, main

    settings = Settings()
    base = TrainingOptions(file, changes or (), show).of(recall_plan(settings, 0, None, {}))
    tuning = RecallTuning(out=settings.home / "work" / "tune-recall", minutes=minutes, seed=seed)
    with epochs_bar("two-tower") as progress:
        result = main(tuning, base, console.print, progress)
    finish(result, as_json)


@app.command()
def serving(
    out: Annotated[Path | None, typer.Option(help="Profile to write; default <home>/serving.env.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the workload.")] = 0,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Find the processes, threads and batch size with the highest throughput on this machine; write a profile.

    Example: recsys tune serving --out var/serving.env
    """
    from infra.evaluation.benchmarks.tune_serving import ServingTuning, run

    profile = out or Settings().home / "serving.env"
    finish(run(ServingTuning.quick(profile, seed) if quick else ServingTuning(profile, seed)), as_json)


@app.command("all")
def everything(
    budget_ms: Annotated[float, typer.Option(min=1, help="Longest p99 of a recommendation.")] = 80.0,
    budget_mb: Annotated[float, typer.Option(min=1, help="Most memory of all API processes.")] = 1_500.0,
    lake: Annotated[
        bool,
        typer.Option("--lake", help="Compare the variants of the lake's ladder, not of the synthetic one."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Profile to write; default <home>/serving.env.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the workload.")] = 0,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Choose variant, index, candidates and processes within a time and a memory on this machine; write a profile.

    As many candidates as fit are ranked. What was measured is written next to the profile, as JSON.

    Example: recsys tune all --budget-ms 50 --budget-mb 1000
    """
    from infra.evaluation.benchmarks.tune_all import WholeTuning, run
    from training.compression.configs import ladder_folder

    settings = Settings()
    profile = out or settings.home / "serving.env"
    config = WholeTuning(budget_ms, budget_mb, ladder_folder(settings, lake), profile, seed)
    finish(run(config.quick() if quick else config), as_json)
