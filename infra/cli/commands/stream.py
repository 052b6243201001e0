"""`recsys stream`: the processes between the event log, the store and the lake, and what feeds them."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from infra.evaluation.load.traffic import Sent, drive, http_target, kafka_target, traffic_events
from infra.evaluation.load.visitors import Population, VisitConfig, Visits, figures, play_day
from infra.local.services import connected
from infra.signals import stop_event
from infra.terminal import JsonFlag, console, print_json, print_mapping, print_table
from recsys.client import AsyncClient, Retry
from recsys.contracts.errors import InvalidConfig
from recsys.contracts.events import Event
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, Topic
from recsys.items.item_table import read_items
from recsys.lake.lake import count_rows
from recsys.simulation.clock import CLOCK_FILE, LEAD_S, WorldClock, wall_ms, write_clock
from recsys.simulation.world import create_world, read_world
from streaming.lake_writer import archive as archiver
from streaming.lake_writer.compact import compact as compact_lake
from streaming.log import KafkaSink, KafkaSource
from streaming.replay import Position
from streaming.replay import replay as run_replay
from streaming.settings import StreamSettings
from streaming.worker import feature_worker
from streaming.worker.dead_letter import read_dead_letters

app = typer.Typer(no_args_is_help=True, help="Feature worker, archiver, replay, dead letters, traffic.")


@app.command()
def worker(
    partitions: Annotated[
        str, typer.Option(help="Fixed partitions, such as 0,1; empty: shared with the other workers.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Apply events to the feature store until Ctrl-C, each event once. Start several: they share the partitions.

    Example: recsys stream worker
    """
    fixed = _numbers(partitions)
    metrics = feature_worker.main(connected(StreamSettings()), stop_event(), fixed)
    print_mapping("worker", metrics.totals(), as_json)


@app.command()
def archive(as_json: JsonFlag = False) -> None:
    """Write the topics `events`, `impressions` and `items` to the lake until Ctrl-C, each record exactly once.

    Example: recsys stream archive
    """
    totals = archiver.main(connected(StreamSettings()), stop_event())
    print_mapping("archived", asdict(totals), as_json)


@app.command()
def replay(
    speed: Annotated[
        float, typer.Option(min=0.0, help="Event seconds a second; 0: as fast as the log takes them.")
    ] = 0.0,
    first_day: Annotated[str, typer.Option("--from", help="First day, YYYY-MM-DD.")] = "",
    last_day: Annotated[str, typer.Option("--to", help="Last day, YYYY-MM-DD.")] = "9999",
    again: Annotated[
        bool, typer.Option("--again", help="From the beginning, not from where it was.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Send the lake's events through Kafka in the order in which they happened. Goes on where it was interrupted.

    Example: recsys stream replay --speed 3600
    """
    settings = connected(StreamSettings())
    source = KafkaSource(settings.kafka_bootstrap)
    position = Position(settings.home / "run" / "replay.json", source.log_id(Topic.EVENTS))
    source.close()
    if again:
        position.forget()
    sink = KafkaSink(settings.kafka_bootstrap)
    columns = (TextColumn("replay"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("", total=count_rows(settings.lake, "events", first_day, last_day))
            done = run_replay(
                settings.lake,
                sink,
                position,
                speed=speed,
                first_day=first_day,
                last_day=last_day,
                on_progress=lambda events: progress.update(task, completed=events),
            )
    finally:
        sink.close()
    result = {**asdict(done), "events_per_s": round(done.events_per_s)}
    print_mapping("replayed", result, as_json)
    if not done.events and not as_json:
        console.print("nothing to send: everything is in the log already (`--again` repeats it)")


@app.command()
def compact(as_json: JsonFlag = False) -> None:
    """One file a day instead of the archiver's many, without the rows of users who asked to be forgotten.

    Imported files stay as they are but for those rows. Archiver and imports may go on.

    Example: recsys stream compact
    """
    print_mapping("compacted", asdict(compact_lake(StreamSettings().lake)), as_json)


@app.command("dead-letters")
def dead_letters(
    show: Annotated[int, typer.Option(min=0, help="How many of them to print.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """The records that were refused: counts per reason, and the first of them.

    Example: recsys stream dead-letters --show 5
    """
    source = KafkaSource(connected(StreamSettings()).kafka_bootstrap)
    try:
        letters = list(read_dead_letters(source))
    finally:
        source.close()
    counts = Counter(letter.kind for letter in letters)
    first = [
        asdict(letter) | {"value": letter.value.decode(errors="replace")} for letter in islice(letters, show)
    ]
    if as_json:
        print_json({"total": len(letters), "reasons": dict(counts), "letters": first})
        return
    print_table(f"{len(letters)} dead letters", ("reason", "records"), counts.most_common())
    rows = [(f"{x['topic']}:{x['partition']}:{x['offset']}", x["reason"], x["value"][:80]) for x in first]
    print_table("", ("record", "reason", "value"), rows)


@app.command()
def traffic(
    rate: Annotated[float, typer.Option(min=0.1, help="Events a second.")] = 100.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="For how long.")] = 10.0,
    api: Annotated[str, typer.Option(help="Send to this API instead of straight to Kafka.")] = "",
    users: Annotated[int, typer.Option(min=1, help="How many users take part.")] = 10_000,
    skew: Annotated[float, typer.Option(min=0.0, help="Zipf's exponent; 0: everybody alike.")] = 1.1,
    seed: Annotated[int, typer.Option(help="Of users, items and types.")] = 0,
    world: Annotated[
        Path | None,
        typer.Option(help="Simulate users of this world (`recsys simulate history`): see below."),
    ] = None,
    day: Annotated[int, typer.Option(min=0, help="Which day of the world is played.")] = 0,
    days: Annotated[int, typer.Option(min=1, help="How many days of the world, one after the other.")] = 1,
    k: Annotated[int, typer.Option(min=1, help="Items that a visitor asks for.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """Send made-up events of now about the lake's items, at a fixed rate, whatever the answers.

    With --world its users come as clients of the API: they ask for lists, click, read, buy and leave. --rate is then
    visits a second, and --seconds how long one day of the world lasts, with its quiet night and its evening. What time
    it is in the world is kept in world-clock.json beside it: start the API with RECSYS_CLOCK=<home>/world-clock.json.

    Example: recsys stream traffic --rate 1000 --seconds 60
    """
    settings = StreamSettings()
    if world is not None:
        config = VisitConfig(rate=rate, day_s=seconds, k=k, day=day)
        print_mapping("visits", asyncio.run(_visits(api, world, config, days)), as_json)
        return
    items = read_items(settings.lake / "items" / "items.parquet")
    events = traffic_events(items, users, skew, seed)
    count = round(rate * seconds)
    if api:
        sent = asyncio.run(_over_http(api, events, rate, count))
    else:
        sink = KafkaSink(connected(settings).kafka_bootstrap)
        try:
            sent = asyncio.run(drive(kafka_target(sink), events, rate, count, stop_event()))
        finally:
            sink.close()
    figures: dict[str, object] = {"accepted": sent.accepted, "refused": sent.refused}
    if sent.seconds:
        p50, p99 = np.percentile(sent.seconds, [50, 99]) * 1_000
        figures |= {"accepted_after_p50_ms": round(p50, 2), "accepted_after_p99_ms": round(p99, 2)}
    print_mapping("traffic", figures, as_json)


async def _over_http(api: str, events: Iterator[Event], rate: float, count: int) -> Sent:
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=api, timeout=10.0, limits=limits) as client:
        return await drive(http_target(client), events, rate, count, stop_event())


async def _visits(api: str, world: Path, config: VisitConfig, days: int) -> dict[str, float]:
    if not api:
        raise InvalidConfig("visitors need an API: add --api http://127.0.0.1:8000")
    population = Population(create_world(read_world(world)))
    clock = world.with_name(CLOCK_FILE)
    first_ms = population.world.config.start_ms + config.day * MS_PER_DAY
    until_ms = first_ms + days * MS_PER_DAY + MS_PER_HOUR
    limits = httpx.Limits(max_connections=512, max_keepalive_connections=512)
    transport = httpx.AsyncHTTPTransport(limits=limits)
    visits, stop = Visits(), stop_event()
    async with AsyncClient(api, timeout_s=10.0, retry=Retry(attempts=2), transport=transport) as client:
        began = time.monotonic()
        for day in range(days):
            begins = WorldClock(
                wall_ms=wall_ms() + round(LEAD_S * 1e3),
                world_ms=first_ms + day * MS_PER_DAY,
                speed=86_400 / config.day_s,
                until_ms=until_ms,
            )
            write_clock(clock, begins)
            await asyncio.sleep(LEAD_S)
            visits.add(await play_day(client, population, replace(config, day=config.day + day), stop))
            if stop.is_set():
                break
        took_s = time.monotonic() - began
    now_ms = begins.at(wall_ms())
    write_clock(clock, WorldClock(wall_ms=wall_ms(), world_ms=now_ms, speed=0, until_ms=now_ms))
    return figures(visits, took_s)


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",") if number]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of partition numbers such as 0,1") from None
