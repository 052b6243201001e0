"""`recsys up` and `recsys status`: the embedded services, and what is there."""

from typing import Annotated, Any

import typer

from infra.cli.status import gather
from infra.local.services import embedded
from infra.signals import stop_event
from infra.terminal import JsonFlag, console, print_json, print_table
from recsys.contracts.errors import Unavailable
from recsys.settings import Settings

app = typer.Typer()


@app.command()
def up(
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget what Redis kept from the last time.")
    ] = False,
) -> None:
    """Run the embedded Redis and Kafka until Ctrl-C. Every other command of the same home finds them.

    Example: recsys up
    """
    stop = stop_event()
    with embedded(Settings(), fresh=fresh) as services:
        console.print(f"Redis  {services.redis_url}\nKafka  {services.kafka_bootstrap}\nCtrl-C stops both.")
        while not stop.wait(1.0):
            if not services.alive:
                raise Unavailable("an embedded service has ended; its log is in the home folder")


@app.command()
def status(
    api: Annotated[str, typer.Option(help="Where the API listens.")] = "http://127.0.0.1:8000",
    as_json: JsonFlag = False,
) -> None:
    """What runs, what is reachable, how far each topic is read, which bundle is published.

    Exits with 1 when Redis or Kafka cannot be reached.

    Example: recsys status --json
    """
    found = gather(Settings(), api)
    if as_json:
        print_json(found)
    else:
        _print(found)
    raise typer.Exit(0 if found["redis"]["reachable"] and found["kafka"]["reachable"] else 1)


def _print(found: dict[str, Any]) -> None:
    rows: list[tuple[str, str, str]] = []
    for name in ("redis", "kafka", "api"):
        part = dict(found[name])
        state = "[green]reachable[/]" if part.pop("reachable") else "[red]away[/]"
        topics = part.pop("topics", {})
        rows.append((name, state, _line(part)))
        rows += [(f"  {topic}", f"{t.pop('records')} records", _line(t)) for topic, t in topics.items()]
    bundle = found["bundle"]
    rows.append(("bundle", bundle or "[yellow]none[/]", "" if bundle else "`recsys train all` makes one"))
    print_table(f"home {found['home']}", ("", "", ""), rows)
    if "error" in found:
        console.print(found["error"])


def _line(part: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in part.items())
