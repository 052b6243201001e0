"""`recsys demo`: the whole loop once, then serve until Ctrl-C."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from infra.loop import Outcome
from infra.cli.options import refuse
from infra.terminal import JsonFlag, console, print_json, print_table

app = typer.Typer()


@app.command()
def demo(
    ctx: typer.Context,
    data: Annotated[
        Path | None, typer.Option(help="Data set to use instead of MovieLens-100K (see `recsys data`).")
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="YAML that maps the columns of your own tables.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Exit after printing the recommendations.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of the API; 0: any free one.")] = 8000,
    as_json: JsonFlag = False,
) -> None:
    """Import, stream, build features, train, serve, click, and see the list change; then train in full.

    Starts an embedded Redis and Kafka, unless RECSYS_REDIS_URL and RECSYS_KAFKA_BOOTSTRAP name others. Stops
    everything that it started on exit.

    Example: recsys demo --once
    """
    from infra.demo import run_demo

    refuse(ctx, data is None, ["mapping"], "it maps your own tables; add --data FOLDER")

    def show(outcome: "Outcome", url: str) -> None:
        if as_json:
            print_json(outcome.to_dict())
            return
        _print_lists(outcome)
        if not once:
            _print_next_steps(outcome, url)

    run_demo(data=data, mapping=mapping, once=once, port=port, show=show)


def _print_lists(outcome: "Outcome") -> None:
    before = [item["item_id"] for item in outcome.before]
    clicked = {item["item_id"] for item in outcome.clicked}
    rows = []
    for n, (old, new) in enumerate(zip(outcome.before, outcome.after, strict=False)):
        mark = "[yellow]clicked[/] " if old["item_id"] in clicked else ""
        rows.append((n + 1, mark + _name(old), _name(new), _moved(new["item_id"], n, before)))
    print_table(f"user {outcome.user}", ("", "before", "after three clicks", ""), rows)
    console.print(
        f"[bold green]{outcome.change_ms:.0f} ms[/] from the clicks to the changed list, through Kafka and Redis"
    )


def _name(item: dict[str, Any]) -> str:
    categories = ", ".join(item.get("categories", ())[:2])
    return f"{item.get('title') or item['item_id']} [dim]{categories}[/]"


def _moved(item: str, position: int, before: list[str]) -> str:
    if item not in before:
        return "[green]new[/]"
    change = before.index(item) - position
    return "" if not change else f"[cyan]{'▲' if change > 0 else '▼'}{abs(change)}[/]"


def _print_next_steps(outcome: "Outcome", url: str) -> None:
    console.print(f"""
Serving on [bold]{url}[/] until Ctrl-C. Console: {url}/    API: {url}/openapi.json

  curl -s {url}/v1/recommendations -H 'content-type: application/json' \\
       -d '{{"user_id": "{outcome.user}", "k": 5}}'
  curl -s {url}/v1/items/{outcome.before[0]["item_id"]}/similar
  curl -s {url}/metrics
""")
