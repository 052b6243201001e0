"""`recsys size`: what to run for a load, and what it costs."""

from pathlib import Path
from typing import Annotated

import typer

from infra.sizing_table import TABLE, read_table
from infra.terminal import JsonFlag, console, print_mapping
from recsys.store.base import StoreConfig

app = typer.Typer()


@app.command()
def size(
    qps: Annotated[float, typer.Option(min=0.1, help="Recommendations per second at the peak.")],
    users: Annotated[int, typer.Option(min=1, help="Number of users with state.")],
    items: Annotated[int, typer.Option(min=1, help="Number of items in the catalogue.")],
    events_per_day: Annotated[float, typer.Option(min=1, help="Clicks, dwells, …; impressions are added.")],
    table: Annotated[Path, typer.Option(help="Throughput of a process, and prices; edit a copy.")] = TABLE,
    as_json: JsonFlag = False,
) -> None:
    """Processes, memory, partitions, bytes and cost per month. Samples are really stored: it takes about a minute.

    Example: recsys size --qps 500 --users 1000000 --items 100000 --events-per-day 20000000
    """
    from infra.capacity.model import Load, as_mapping, measure_units, plan

    load, figures = Load(qps, users, items, events_per_day), read_table(table)
    with console.status("storing samples"):
        units = measure_units(load, figures, StoreConfig())
    print_mapping("for this load", as_mapping(plan(load, figures, units)), as_json)
    if not as_json:
        console.print(f"by {table}: enter what you measured and what you pay; see docs/operations.md")
