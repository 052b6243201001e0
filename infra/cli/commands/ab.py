"""`recsys ab`: what experiments found."""

from pathlib import Path
from typing import Annotated

import typer

from infra.terminal import JsonFlag, finish
from recsys.settings import Settings

app = typer.Typer(no_args_is_help=True, help="What experiments found, and whether to believe it.")


@app.command()
def report(
    experiment: Annotated[str, typer.Argument(help="Its name, as `GET /v1/experiments` has it.")],
    control: Annotated[str, typer.Option(help="The arm to compare with; default: `control`.")] = "",
    seed: Annotated[int, typer.Option(help="Of the bootstrap and the A/A tests.")] = 0,
    aa_tests: Annotated[int, typer.Option(min=1, help="A/A tests on random halves of the users.")] = 1_000,
    out: Annotated[Path | None, typer.Option(help="Folder; default <home>/reports/ab/EXPERIMENT.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Lifts with intervals, CUPED, sample-ratio and A/A checks, sequential p-values, plots; from the lake.

    Example: recsys ab report diversity --json
    """
    from infra.evaluation.reports.ab import AbReport
    from infra.evaluation.reports.ab import report as run

    settings = Settings()
    folder = out or settings.home / "reports" / "ab" / experiment
    finish(run(AbReport(settings.lake, experiment, folder, control, seed, aa_tests)), as_json)


@app.command("off-policy")
def off_policy(
    seed: Annotated[int, typer.Option(help="Of the world and the draws.")] = 0,
    rows: Annotated[int, typer.Option(min=100, help="Logged lists.")] = 20_000,
    as_json: JsonFlag = False,
) -> None:
    """IPS, SNIPS and doubly robust estimates from a simulated log, beside what the policy then really earned.

    Example: recsys ab off-policy --json
    """
    from infra.evaluation.reports.off_policy import OffPolicy, run

    finish(run(OffPolicy(seed, rows)), as_json)
