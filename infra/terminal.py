"""What every command prints with: tables for people, one JSON object for machines, one sentence on error."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import structlog
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from recsys.contracts.errors import RecsysError
from recsys.extras import extra_named
from recsys.observability.logs import redact
from recsys.operator_files import problems_of
from recsys.result import Result, to_json

_log = structlog.get_logger(__name__)
# Progress and messages go to standard error, so that `--json` output is the only thing on standard output.
console = Console(stderr=True)
_out = Console()
UNDEFINED = "undefined"  # a figure without a value, such as the AUC of one label; null in JSON

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
QuickFlag = Annotated[bool, typer.Option("--quick", help="A smaller run of the same code.")]


def print_json(content: object) -> None:
    sys.stdout.write(to_json(content) + "\n")
    sys.stdout.flush()  # the command may serve on after it has printed


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(_text, row))
    _out.print(table)


def _text(cell: object) -> str:
    return UNDEFINED if isinstance(cell, float) and math.isnan(cell) else str(cell)


def print_mapping(title: str, content: Mapping[str, object], as_json: bool) -> None:
    """One object: JSON for a machine, a two-column table for a person."""
    if as_json:
        print_json(content)
    else:
        print_table(title, ("", ""), list(content.items()))


def finish(result: Result, as_json: bool) -> NoReturn:
    """Print a result and exit: 0 when every goal is met, else 1."""
    if as_json:
        print_json(result.to_dict())
    else:
        rows: list[tuple[Any, ...]] = []
        for name, value in result.figures.items():
            goal = result.goals.get(name)
            verdict = "" if goal is None else ("[green]met" if goal.met(value) else "[red]missed")
            number = UNDEFINED if math.isnan(value) else f"{value:,.6g}"
            rows.append((name, number, f"{goal.op} {goal.value:g}" if goal else "", verdict))
        print_table(f"{result.command} (seed {result.seed})", ("figure", "value", "goal", ""), rows)
        for note in result.notes:
            _out.print(note, highlight=False, markup=False)
    raise typer.Exit(0 if result.met else 1)


@contextmanager
def epochs_bar(model: str, unit: str = "epoch") -> Iterator[Callable[[str, float, int], None]]:
    """Yield a function that shows a training's progress: its phase, the epochs (or other units) done, their number."""
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn(f"{unit} {{task.completed:.1f}}")
    with Progress(*columns, TimeElapsedColumn(), console=console) as bars:
        bar = bars.add_task(model, total=None)
        yield lambda phase, done, epochs: bars.update(
            bar, description=f"{model} {phase}", completed=done, total=epochs
        )


@contextmanager
def one_sentence_on_error() -> Iterator[None]:
    """Expected errors become one line on standard error and exit code 2; unexpected ones are logged with a trace."""
    try:
        with extra_named():
            yield
    except RecsysError as error:
        _fail(str(error))
    except ValidationError as error:
        _fail(f"{error.title}: {problems_of(error)}")
    except Exception:
        _log.exception("unexpected error; report it with this trace")
        raise SystemExit(1) from None


def _fail(message: str) -> NoReturn:
    console.print(f"[red]error:[/] {escape(redact(message))}", highlight=False, soft_wrap=True)
    raise SystemExit(2) from None
