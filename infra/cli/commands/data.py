"""`recsys data`: fetch data sets, validate them, import them into the lake."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress as Bars
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from infra.cli.options import refuse
from infra.terminal import JsonFlag, console, print_json, print_mapping, print_table
from recsys.contracts.errors import InvalidConfig
from recsys.datasets.fetch import FETCHABLE, fetch
from recsys.datasets.formats import FORMATS, TABLE
from recsys.files import atomic_write
from recsys.settings import Settings

if TYPE_CHECKING:
    from recsys.datasets.importer import Progress
    from recsys.datasets.report import ImportReport

app = typer.Typer(no_args_is_help=True, help="Fetch, validate and import data sets.")

Data = Annotated[Path, typer.Argument(help="Folder of the data set; with a mapping, also a single table.")]
Format = Annotated[
    str | None,
    typer.Option("--format", help=f"One of {', '.join(FORMATS)}; default: recognised by the files."),
]
MappingFile = Annotated[
    Path | None,
    typer.Option(
        "--mapping",
        help="YAML file that maps the columns of your own tables, with the unit of times and the scale of ratings "
        "(docs/data.md).",
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse the data set if a row is broken.")]
ShiftToNow = Annotated[
    bool,
    typer.Option("--shift-to-now", help="Shift all times by whole weeks, so that the log ends this week."),
]


@app.command("fetch")
def fetch_(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(FETCHABLE)}.")], as_json: JsonFlag = False
) -> None:
    """Download a public data set into <home>/datasets, unless it is there already.

    Example: recsys data fetch movielens-100k
    """
    with console.status(f"fetching {name}"):
        fetched = fetch(name, Settings().home / "datasets")
    print_mapping(f"data set {name}", {"path": str(fetched.path), "source": fetched.source}, as_json)


@app.command("import")
def import_(
    ctx: typer.Context,
    path: Data,
    layout: Format = None,
    mapping: MappingFile = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the data set; default: that of the folder or the table.")
    ] = None,
    strict: Strict = False,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Replace the earlier import of this name, also if it was of another source or had many more rows.",
        ),
    ] = False,
    shift_to_now: ShiftToNow = False,
    as_json: JsonFlag = False,
) -> None:
    """Import a data set into the lake. Broken rows go to lake/rejected with their reasons.

    Example: recsys data import var/datasets/ml-100k --shift-to-now
    """
    from recsys.datasets.importer import import_dataset
    from recsys.datasets.opening import open_dataset

    _check_format(ctx, layout, mapping)
    dataset, end_ms = open_dataset(path, layout, mapping, name), _end(shift_to_now)
    with _progress() as progress:
        report = import_dataset(
            dataset, Settings().lake, strict=strict, replace=replace, end_ms=end_ms, progress=progress
        )
    _print(report, as_json)


@app.command()
def validate(
    ctx: typer.Context,
    path: Data,
    layout: Format = None,
    mapping: MappingFile = None,
    strict: Strict = False,
    shift_to_now: ShiftToNow = False,
    as_json: JsonFlag = False,
) -> None:
    """Print the report of an import without writing anything.

    Example: recsys data validate my-shop --mapping my-shop/mapping.yaml
    """
    from recsys.datasets.importer import validate_dataset
    from recsys.datasets.opening import open_dataset

    _check_format(ctx, layout, mapping)
    dataset = open_dataset(path, layout, mapping)
    with _progress() as progress:
        report = validate_dataset(dataset, strict=strict, end_ms=_end(shift_to_now), progress=progress)
    _print(report, as_json)


@app.command()
def guess(
    paths: Annotated[list[Path], typer.Argument(help="Folder of tables, or tables of one folder.")],
    write: Annotated[
        Path | None, typer.Option(help="Write the mapping to this file, unless it exists.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Guess the mapping of tables from their columns, and say what to check. Reads the first 20,000 rows of each.

    Example: recsys data guess my-shop --write my-shop/mapping.yaml
    """
    from recsys.datasets.guessing import guess_mapping

    guessed = guess_mapping(paths)
    if write is not None:
        if write.exists():
            raise InvalidConfig(f"{write} exists; name another file, or remove it")
        atomic_write(write, guessed.to_yaml())
    if as_json:
        print_json(guessed.to_dict())
        return
    for table, columns in guessed.columns.items():
        rows = [(used.column, used.role, "  ".join(used.examples)) for used in columns]
        print_table(table, ("column", "taken for", "examples"), rows)
    typer.echo(guessed.to_yaml(), nl=False)
    for doubt in guessed.doubts:
        console.print(f"[yellow]check[/] {doubt}", highlight=False)
    where = write or "mapping.yaml"
    console.print(f"next: `recsys data validate {guessed.folder} --mapping {where}`", highlight=False)


def _check_format(ctx: typer.Context, layout: str | None, mapping: Path | None) -> None:
    other = mapping is not None and layout != TABLE
    refuse(ctx, other, ["layout"], f"--mapping reads the format {TABLE}; leave one of them")


def _end(shift_to_now: bool) -> int | None:
    return time.time_ns() // 1_000_000 if shift_to_now else None


@contextmanager
def _progress() -> Iterator["Progress"]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}: {task.completed:,} events"),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        tasks = {}

        def show(phase: str, rows: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=None)
            bars.update(tasks[phase], completed=rows)

        yield show


def _print(report: "ImportReport", as_json: bool) -> None:
    if as_json:
        print_json(report.to_dict())
        return
    for title, columns, rows in report.tables():
        print_table(title, columns, rows)
