"""`recsys up` and `recsys status`: the embedded services, and the state of every part."""

from typing import Annotated, Any

import typer

from infra.signals import stop_event
from infra.terminal import JsonFlag, console, print_json, print_table
from recsys.contracts.errors import InvalidConfig, Unavailable
from recsys.observability.logs import redact
from recsys.settings import LocalKafka, Settings

app = typer.Typer()


@app.command()
def up(
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the data of the last run.")] = False,
    kafka: Annotated[
        LocalKafka | None,
        typer.Option(help="The broker: in memory, or a durable Apache Kafka. [default: RECSYS_LOCAL_KAFKA]"),
    ] = None,
) -> None:
    """Run a Redis and a Kafka of your own until Ctrl-C. Other commands with the same RECSYS_HOME use them. Those that
    RECSYS_REDIS_URL and RECSYS_KAFKA_BOOTSTRAP name are not started; the topics that such a Kafka lacks are created.

    Example: recsys up
    """
    from infra.local.services import embedded

    stop = stop_event()
    settings = Settings() if kafka is None else Settings(local_kafka=kafka)
    if kafka is not None and settings.kafka_bootstrap:
        raise InvalidConfig(
            f"--kafka starts a broker, RECSYS_KAFKA_BOOTSTRAP names one: {settings.kafka_bootstrap}"
        )
    with embedded(settings, fresh=fresh) as services:
        console.print(f"Redis  {redact(services.redis_url)}\nKafka  {services.kafka_bootstrap}")
        if not services.redis_pid and not services.kafka_pid:
            return  # both are the user's own
        console.print("Ctrl-C stops what was started here")
        while not stop.wait(1.0):
            if not services.alive:
                raise Unavailable(f"an embedded service has ended; its log is in {settings.home}")


@app.command()
def status(
    api: Annotated[str, typer.Option(help="Address of the API.")] = "http://127.0.0.1:8000",
    as_json: JsonFlag = False,
) -> None:
    """Show which parts are reachable, the lag of each topic, and the published bundle.

    Exits with 1 when Redis or Kafka cannot be reached.

    Example: recsys status --json
    """
    from infra.cli.status import gather

    found = gather(Settings(), api)
    if as_json:
        print_json(found)
    else:
        _print(found)
    raise typer.Exit(0 if found["redis"]["reachable"] and found["kafka"]["reachable"] else 1)


def _print(found: dict[str, Any]) -> None:
    rows: list[tuple[str, str, str]] = []
    for name in ("redis", "kafka", "database", "api"):
        if name not in found:
            continue
        part = dict(found[name])
        state = "[green]reachable[/]" if part.pop("reachable") else "[red]unreachable[/]"
        topics = part.pop("topics", {})
        rows.append((name, state, _line(part)))
        rows += [(f"  {topic}", f"{t.pop('records')} records", _line(t)) for topic, t in topics.items()]
    bundle = found["bundle"]
    rows.append(
        ("bundle", bundle or "[yellow]none[/]", "" if bundle else "create one with `recsys train all`")
    )
    print_table(f"home {found['home']}", ("", "", ""), rows)
    if "error" in found:
        console.print(found["error"])


def _line(part: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in part.items())
