"""`recsys report`: tables and plots of what was measured."""

from pathlib import Path
from typing import Annotated

import typer

from infra.console import JsonFlag, finish
from recsys.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Tables and plots of what was measured.")


@app.command()
def ladder(
    out: Annotated[
        Path | None, typer.Option(help="Where the plots go; default <home>/reports/ladder.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Every rung of the compression ladder: bytes, memory, p50, p99, quality; plots beside the table.

    Build the ladder first, with `recsys train ladder`.

    Example: recsys report ladder --json
    """
    from infra.reports.ladder import report

    settings = Settings()
    finish(report(settings.home / "work" / "ladder", out or settings.home / "reports" / "ladder"), as_json)
