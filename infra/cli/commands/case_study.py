"""`recsys case-study`: before and after."""

from pathlib import Path
from typing import Annotated

import typer

from infra.terminal import JsonFlag, QuickFlag, finish
from recsys.settings import Settings

app = typer.Typer(help="The promised table and what is measured.")


@app.command("case-study")
def case_study(
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    quick: QuickFlag = False,
    out: Annotated[Path | None, typer.Option(help="Folder; default <home>/reports/case-study.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with ml-100k and kuairand-pure-part, for the rows on real data."),
    ] = None,
    section: Annotated[
        list[str] | None,
        typer.Option(help="Measure these sections alone, such as effect; may be repeated.", metavar="NAME"),
    ] = None,
    items: Annotated[
        int | None,
        typer.Option(min=1_000, help="Size of the catalogue that is served (updates, under_load and steps)."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Discard the results of an interrupted run.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Measure every row before and after. Exits with 0 when every row was measured, even if a goal was missed.

    Build the ladder first, with `recsys train ladder`: without one, networks are untrained, and the report has no
    quality of theirs. An interrupted run resumes.

    With `--section effect` it measures that section alone.

    Example: recsys case-study --quick --json
    """
    from infra.evaluation.case_study.study import CaseStudy, run

    home = Settings().home
    parts = [*(section or ()), *([f"{items}-items"] if items else ())]
    name = "-".join(["case-study", *parts])  # neither replaces the whole at its usual size
    folder = out or home / "reports" / name
    study = CaseStudy.of(home, folder, seed, data, quick, items)
    finish(run(study.only(section) if section else study, fresh), as_json)
