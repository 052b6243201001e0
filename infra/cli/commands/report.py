"""`recsys report`: tables and plots of what was measured."""

from pathlib import Path
from typing import Annotated

import typer

from infra.terminal import JsonFlag, QuickFlag, finish
from recsys.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Tables and plots of what was measured.")


@app.command()
def ladder(
    out: Annotated[Path | None, typer.Option(help="Folder; default <home>/reports/ladder.")] = None,
    lake: Annotated[
        bool, typer.Option("--lake", help="Use the lake's ladder, not the synthetic one.")
    ] = False,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Every variant of the compression ladder: bytes, memory, p50, p99, quality; a table and plots.

    Build the ladder first, with `recsys train ladder`.

    Example: recsys report ladder --json
    """
    from infra.evaluation.reports.ladder import CALLS, report
    from training.compression.configs import ladder_folder

    settings = Settings()
    folder = ladder_folder(settings, lake)
    plots = out or settings.home / "reports" / folder.name
    finish(report(folder, plots, calls=6 if quick else CALLS), as_json)


@app.command()
def diversity(
    data: Annotated[Path, typer.Option(help="A data set's folder, or a lake.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the plot goes; default <home>/reports/diversity.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampled cases.")] = 0,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """What the diversity dial of MMR and DPP costs in NDCG on the next item, and gains in distance.

    Example: recsys report diversity --data var/datasets/ml-100k
    """
    from infra.evaluation.reports.diversity import DiversityReport, report

    home = Settings().home
    work, where = home / "work" / "diversity", out or home / "reports" / "diversity"
    sizes = DiversityReport.quick if quick else DiversityReport
    finish(report(sizes(data, work, where, seed=seed)), as_json)


@app.command()
def energy(
    api: Annotated[str, typer.Option(help="Address of the API.")] = "http://127.0.0.1:8000",
    key: Annotated[str, typer.Option(envvar="API_KEY", help="API key, if the API requires one.")] = "",
    seconds: Annotated[float, typer.Option(min=0, help="How long to watch.")] = 10.0,
    as_json: JsonFlag = False,
) -> None:
    """Joules per 1,000 requests of a running API: modelled with bounds, and the machine's own meters if it has any.

    Example: recsys report energy --seconds 60 --json
    """
    from infra.evaluation.reports.energy import report

    finish(report(api, key, seconds), as_json)


@app.command()
def popular(
    epsilon: Annotated[float, typer.Option(min=0.01, help="What the table may cost a user.")] = 1.0,
    days: Annotated[int, typer.Option(min=1, help="Newest days of the lake.")] = 7,
    most: Annotated[int, typer.Option(min=1, help="Items of one user that count, the newest.")] = 10,
    top: Annotated[int, typer.Option(min=1, help="Items in the table.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """Items by the number of users who engaged with them, with noise, so that the table may be published.

    The cost is written to the ledger <home>/privacy.json, which refuses what exceeds RECSYS_PRIVACY_EPSILON.

    Example: recsys report popular --epsilon 1 --days 30
    """
    from infra.cli.training_runs import ledger
    from infra.evaluation.reports.popular import PopularReport, report

    settings = Settings()
    finish(report(PopularReport(settings.lake, epsilon, days, most, top), ledger(settings)), as_json)
