"""Bars for the steps of a fit, on standard error or in a notebook's cell."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Show = Callable[[str, float, float | None], None]  # step, how much is done, of how much (None: unknown)


@contextmanager
def bars(shown: bool) -> Iterator[Show]:
    """Yield a function that shows how far a step is; a new step ends the one before."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as progress:
        tasks = {}

        def finish() -> None:
            for task in progress.tasks:
                progress.update(task.id, total=1, completed=1)

        def show(step: str, done: float, total: float | None) -> None:
            if step not in tasks:
                finish()
                tasks[step] = progress.add_task(step, total=total)
            progress.update(tasks[step], completed=done, total=total)

        yield show
        finish()
