"""`recsys quickstart`: your own tables, a first bundle, and the API."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.terminal import JsonFlag, console, print_json, print_table

if TYPE_CHECKING:
    from infra.loop import Outcome
    from recsys.datasets.guessing import Guess

app = typer.Typer()


@app.command()
def quickstart(
    paths: Annotated[
        list[Path], typer.Argument(help="Folder of tables, or tables of one folder (see `recsys data`).")
    ],
    minutes: Annotated[
        float,
        typer.Option(
            min=1.0,
            max=60.0,
            help="Time to the first list, on two idle cores.",
        ),
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Exit after printing a list.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of the API; 0: any free one.")] = 8000,
    as_json: JsonFlag = False,
) -> None:
    """Guess what your tables mean, import them, train a first bundle, serve; then train in full and swap it in.

    Times are shifted so that the log ends this week. Starts an embedded Redis and Kafka, unless RECSYS_REDIS_URL and
    RECSYS_KAFKA_BOOTSTRAP name others. Files are in <home>/quickstart; the next run starts from scratch.

    Example: recsys quickstart examples/shop
    """
    from infra.quickstart import run_quickstart

    def show(outcome: "Outcome", url: str) -> None:
        if as_json:
            print_json(outcome.to_dict())
        else:
            _print(outcome, url, once)

    run_quickstart(paths, minutes=minutes, once=once, port=port, guessed=_print_guess, show=show)


def _print_guess(guess: "Guess", file: Path) -> None:
    for table, columns in guess.columns.items():
        taken = ", ".join(f"{used.column} → {used.role}" for used in columns)
        console.print(
            f"[bold]{table}[/] {', '.join(getattr(guess.mapping, table).files)}: {taken}", highlight=False
        )
    for doubt in guess.doubts:
        console.print(f"[yellow]check[/] {doubt}", highlight=False)
    console.print(
        f"If the mapping ({file}) is wrong, put it next to your files as mapping.yaml, change it, and run this again",
        highlight=False,
    )


def _print(outcome: "Outcome", url: str, once: bool) -> None:
    rows = [
        (
            n,
            item["item_id"],
            item.get("title") or "",
            ", ".join(item.get("categories", ())),
            f"{item['score']:.3f}",
        )
        for n, item in enumerate(outcome.before, start=1)
    ]
    print_table(f"user {outcome.user}", ("", "item", "title", "categories", "score"), rows)
    console.print(f"[bold green]{outcome.seconds['to the first list']:.0f} s[/] to this list")
    if not once:
        console.print(f"""
Serving on [bold]{url}[/] until Ctrl-C. Console: {url}/    API: {url}/openapi.json

  curl -s {url}/v1/recommendations -H 'content-type: application/json' \\
       -d '{{"user_id": "{outcome.user}", "k": 5}}'
""")
