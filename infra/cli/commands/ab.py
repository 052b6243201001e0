"""`recsys ab`: reports of A/B tests."""

from pathlib import Path
from typing import Annotated

import typer

from infra.terminal import JsonFlag, finish
from recsys.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Report A/B tests and off-policy estimates.")


@app.command()
def report(
    experiment: Annotated[str, typer.Argument(help="Name of the experiment, as in `GET /v1/experiments`.")],
    control: Annotated[
        str, typer.Option(help="Arm that the others are compared with; default: `control`.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap and of the A/A tests.")] = 0,
    aa_tests: Annotated[
        int, typer.Option(min=1, help="Number of A/A tests on random halves of the users.")
    ] = 1_000,
    out: Annotated[
        Path | None, typer.Option(help="Output folder; default: <home>/reports/ab/EXPERIMENT.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Report lifts with intervals, CUPED, sequential p-values, sample-ratio and A/A checks, from the lake.

    Example: recsys ab report diversity --json
    """
    from infra.evaluation.reports.ab import AbReport
    from infra.evaluation.reports.ab import report as run

    settings = Settings()
    folder = out or settings.home / "reports" / "ab" / experiment
    finish(run(AbReport(settings.lake, experiment, folder, control, seed, aa_tests)), as_json)


@app.command("off-policy")
def off_policy(
    seed: Annotated[int, typer.Option(help="Seed of the world and of the draws.")] = 0,
    rows: Annotated[int, typer.Option(min=100, help="Number of logged lists.")] = 20_000,
    as_json: JsonFlag = False,
) -> None:
    """Compare IPS, SNIPS and doubly robust estimates from a simulated log with the policy's true reward.

    Example: recsys ab off-policy --json
    """
    from infra.evaluation.reports.off_policy import OffPolicy, run

    finish(run(OffPolicy(seed, rows)), as_json)
