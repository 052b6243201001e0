"""`recsys up` and `recsys status`: the embedded services, and what is there."""

import time
from typing import Annotated, Any

import httpx
import redis
import typer

from infra.console import JsonFlag, console, print_json, print_table
from infra.local.services import connected, embedded, running
from infra.signals import stop_event
from recsys.bundle import current_version
from recsys.errors import RecsysError, Unavailable
from recsys.settings import Settings
from recsys.types import Topic
from streaming.log import KafkaSource

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
    """What runs, what is reachable, how far the topics are, which bundle is published.

    Exits with 1 when Redis or Kafka cannot be reached.

    Example: recsys status --json
    """
    settings = Settings()
    found: dict[str, Any] = {
        "home": str(settings.home),
        "embedded": running(settings) is not None,
        "redis": {"reachable": False},
        "kafka": {"reachable": False},
        "api": _api(api),
        "bundle": current_version(settings.bundles),
    }
    try:
        settings = connected(settings)
        found["redis"] = _redis(settings.redis_url)
        found["kafka"] = _kafka(settings.kafka_bootstrap)
    except Unavailable as error:
        found["error"] = str(error)
    if as_json:
        print_json(found)
    else:
        _print(found)
    raise typer.Exit(0 if found["redis"]["reachable"] and found["kafka"]["reachable"] else 1)


def _redis(url: str) -> dict[str, Any]:
    client = redis.Redis.from_url(url, socket_timeout=2.0, socket_connect_timeout=2.0)
    try:
        started = time.perf_counter()
        client.ping()
        milliseconds = round((time.perf_counter() - started) * 1000, 2)
        memory = client.info("memory")["used_memory"]
        return {
            "reachable": True,
            "url": url,
            "ping_ms": milliseconds,
            "keys": client.dbsize(),
            "bytes": memory,
        }
    except redis.RedisError as error:
        return {"reachable": False, "url": url, "error": str(error)}
    finally:
        client.close()


def _kafka(bootstrap: str) -> dict[str, Any]:
    try:
        source = KafkaSource(bootstrap)
    except Unavailable as error:
        return {"reachable": False, "bootstrap": bootstrap, "error": str(error)}
    try:
        topics = {str(t): [source.end_offset(t, p) for p in range(source.partitions(t))] for t in Topic}
        return {"reachable": True, "bootstrap": bootstrap, "end_offsets": topics}
    except RecsysError as error:
        return {"reachable": True, "bootstrap": bootstrap, "error": str(error)}
    finally:
        source.close()


def _api(url: str) -> dict[str, Any]:
    try:
        answer = httpx.get(f"{url}/readyz", timeout=2.0)
        return {"reachable": True, "url": url, "ready": answer.status_code == 200}
    except httpx.HTTPError as error:
        return {"reachable": False, "url": url, "error": str(error) or type(error).__name__}


def _print(found: dict[str, Any]) -> None:
    rows: list[tuple[str, str, str]] = []
    for name in ("redis", "kafka", "api"):
        part = dict(found[name])
        state = "[green]reachable" if part.pop("reachable") else "[red]away"
        ends = part.pop("end_offsets", {})
        rows.append((name, state, ", ".join(f"{k} {v}" for k, v in part.items())))
        rows += [(f"  {topic}", f"{sum(e)} records", f"end offsets {e}") for topic, e in ends.items()]
    rows.append(
        (
            "bundle",
            found["bundle"] or "[yellow]none",
            "" if found["bundle"] else "`recsys train all` makes one",
        )
    )
    print_table(f"home {found['home']}", ("", "", ""), rows)
    if "error" in found:
        console.print(found["error"])
