"""`recsys case-study`: before and after."""

from pathlib import Path
from typing import Annotated

import typer

from infra.console import JsonFlag, QuickFlag, finish
from recsys.settings import Settings

app = typer.Typer(help="The promised table beside what is measured.")


@app.command("case-study")
def case_study(
    seed: Annotated[int, typer.Option(min=0, help="Of everything simulated.")] = 0,
    quick: QuickFlag = False,
    out: Annotated[Path | None, typer.Option(help="Folder; default <home>/reports/case-study.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Before and after, row by row; rows that are not measured yet say so, and the exit code is then 1.

    Build the ladder first, with `recsys train ladder`.

    Example: recsys case-study --quick --json
    """
    from infra.case_study.study import CaseStudy, run

    home = Settings().home
    ladder, folder = home / "work" / "ladder", out or home / "reports" / "case-study"
    finish(run(CaseStudy.quick(ladder, folder, seed) if quick else CaseStudy(ladder, folder, seed)), as_json)
