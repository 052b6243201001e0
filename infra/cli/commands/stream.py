"""`recsys stream`: the processes between the event log, the store and the lake, and what feeds them."""

import asyncio
from collections import Counter
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from infra.cli.options import refuse
from infra.signals import stop_event
from infra.sizing_table import TABLE, read_table
from infra.terminal import JsonFlag, console, print_json, print_mapping, print_table
from recsys.contracts.types import Topic
from streaming.settings import Engine, StreamSettings

AcceptGap = Annotated[
    bool,
    typer.Option("--accept-gap", help="Continue at the oldest record where Kafka has deleted unread ones."),
]

app = typer.Typer(
    no_args_is_help=True, help="Feature worker, archiver, relay, replay, dead letters, traffic."
)


@app.command()
def worker(
    ctx: typer.Context,
    partitions: Annotated[
        str, typer.Option(help="Fixed partitions, such as 0,1; empty: share all with the other workers.")
    ] = "",
    engine: Annotated[
        Engine,
        typer.Option(help="spark: in Spark's micro-batches; needs Apache Kafka and the extra `spark`."),
    ] = Engine.WORKER,
    accept_gap: AcceptGap = False,
    autoscale: Annotated[
        str, typer.Option(help="Least and most workers, such as 1:4: as many processes as the load needs.")
    ] = "",
    table: Annotated[Path, typer.Option(help="Of --autoscale: what a worker does (`recsys size`).")] = TABLE,
    as_json: JsonFlag = False,
) -> None:
    """Apply events to the feature store until Ctrl-C, with an exactly-once effect. Workers of both engines share the
    partitions.

    Example: recsys stream worker
    """
    from infra.local.services import connected

    refuse(ctx, not autoscale, ["table"], "the number of workers is fixed; add --autoscale 1:4")
    if autoscale:
        refuse(ctx, True, ["partitions", "engine"], "workers of --autoscale share all partitions")
        _scaled_workers(autoscale, table, accept_gap, as_json)
        return
    try:
        fixed = [int(number) for number in partitions.split(",") if number]
    except ValueError:
        raise typer.BadParameter(f"{partitions!r} is not a list of partition numbers such as 0,1") from None
    if engine is Engine.SPARK:
        from streaming.spark.process import main
    else:
        from streaming.worker.process import main
    metrics = main(connected(StreamSettings()), stop_event(), fixed, accept_gap)
    print_mapping("worker", metrics.totals(), as_json)


def _scaled_workers(limits: str, table: Path, accept_gap: bool, as_json: bool) -> None:
    """The supervisor of several workers."""
    from infra.capacity.autoscale.local import worker_pool
    from infra.local.services import connected

    least, most = parse_limits(limits)
    settings, stop = connected(StreamSettings()), stop_event()
    with worker_pool(settings, least, most, read_table(table), accept_gap) as pool:
        console.print(f"{least} to {most} workers; their logs are in {settings.home / 'logs'}; Ctrl-C stops")
        pool.run(stop.wait)
    print_mapping("workers", {"largest": pool.largest, "replaced": pool.replaced}, as_json)


def parse_limits(text: str) -> tuple[int, int]:
    """Raises `typer.BadParameter`: it is not two numbers, the first at least 1 and no larger than the second."""
    least, _, most = text.partition(":")
    if not (least.isdecimal() and most.isdecimal() and 1 <= int(least) <= int(most)):
        raise typer.BadParameter(f"{text!r} is not the least and the most workers, such as 1:4")
    return int(least), int(most)


@app.command()
def archive(accept_gap: AcceptGap = False, as_json: JsonFlag = False) -> None:
    """Write events, impressions and changes of items and users to the lake until Ctrl-C, each record exactly once.

    Example: recsys stream archive
    """
    from infra.local.services import with_kafka
    from streaming.lake_writer.archive import main

    totals = main(with_kafka(StreamSettings()), stop_event(), accept_gap)
    print_mapping("archived", asdict(totals), as_json)


@app.command()
def relay(as_json: JsonFlag = False) -> None:
    """Deliver changes of items and users from the database's outbox to Kafka until Ctrl-C, in the order of each id.

    Any number of relays may run: they share the work, and one takes over from another that has ended. With
    RECSYS_RELAY=slot, one at a time delivers, in the order of the commits (PostgreSQL only).

    Example: recsys stream relay
    """
    from infra.local.services import with_kafka
    from streaming.relay import main

    print_mapping("relayed", asdict(main(with_kafka(StreamSettings()), stop_event())), as_json)


@app.command()
def replay(
    speed: Annotated[
        float, typer.Option(min=0.0, help="Event seconds per second; 0: as fast as Kafka accepts them.")
    ] = 0.0,
    first_day: Annotated[str, typer.Option("--from", help="First day, YYYY-MM-DD.")] = "",
    last_day: Annotated[str, typer.Option("--to", help="Last day, YYYY-MM-DD.")] = "9999",
    restart: Annotated[
        bool, typer.Option("--restart", help="Start from the beginning instead of the last position.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Send the lake's events through Kafka in event-time order. An interrupted replay resumes where it stopped.

    Example: recsys stream replay --speed 3600
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from infra.local.services import connected
    from recsys.lake.lake import count_rows
    from streaming.log import KafkaSink, KafkaSource
    from streaming.replay import Position
    from streaming.replay import replay as send_events

    settings = connected(StreamSettings())
    source = KafkaSource(settings.kafka)
    position = Position(settings.home / "run" / "replay.json", source.log_id(Topic.EVENTS))
    source.close()
    if restart:
        position.forget()
    sink = KafkaSink(settings.kafka, settings.partitions)
    columns = (TextColumn("replay"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("", total=count_rows(settings.lake, "events", first_day, last_day))
            done = send_events(
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
    print_mapping("replayed", {**asdict(done), "events_per_s": round(done.events_per_s)}, as_json)
    if not done.events and not as_json:
        console.print("nothing to send: all events are in the log already (`--restart` sends them again)")


@app.command()
def compact(as_json: JsonFlag = False) -> None:
    """Merge the archiver's files into one per day and delete the rows of forgotten users.

    Imported files are rewritten only to delete such rows. Archiver and imports may run at the same time.

    Example: recsys stream compact
    """
    from streaming.lake_writer.compact import compact as compact_lake

    settings = StreamSettings()
    print_mapping("compacted", asdict(compact_lake(settings.lake, settings.features)), as_json)


@app.command("dead-letters")
def dead_letters(
    show: Annotated[int, typer.Option(min=0, help="Number of records to print.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """Print the refused records: counts per reason, and the first of them.

    Example: recsys stream dead-letters --show 5
    """
    from infra.local.services import connected
    from streaming.log import KafkaSource
    from streaming.log.dead_letter import read_dead_letters

    source = KafkaSource(connected(StreamSettings()).kafka)
    try:
        letters = list(read_dead_letters(source))
    finally:
        source.close()
    counts = Counter(letter.kind for letter in letters)
    first = [asdict(letter) | {"value": _readable(letter.topic, letter.value)} for letter in letters[:show]]
    if as_json:
        print_json({"total": len(letters), "reasons": dict(counts), "letters": first})
        return
    print_table(f"{len(letters)} dead letters", ("reason", "records"), counts.most_common())
    rows = [(f"{x['topic']}:{x['partition']}:{x['offset']}", x["reason"], x["value"][:80]) for x in first]
    print_table("", ("record", "reason", "value"), rows)


def _readable(topic: str, value: bytes) -> str:
    from recsys.contracts.impression_record import impression_text

    return impression_text(value) if topic == Topic.IMPRESSIONS else value.decode(errors="replace")


@app.command()
def skip(
    topic: Annotated[Topic, typer.Argument(help="The topic.")],
    partition: Annotated[int, typer.Argument(min=0, help="The partition that stopped.")],
    offset: Annotated[int, typer.Argument(min=0, help="The offset at which it stopped.")],
    as_json: JsonFlag = False,
) -> None:
    """Move a batch that cannot be read into the dead letters, so that its partition continues after it.

    Worker, archiver and any later reader of the partition skip it within seconds. What can be read is not skipped.

    Example: recsys stream skip events 1 5021
    """
    from infra.local.services import connected
    from streaming.log import KafkaSink, KafkaSource, find_unreadable
    from streaming.log.dead_letter import skip as skip_batch

    settings = connected(StreamSettings())
    with closing(KafkaSource(settings.kafka)) as source:
        found = find_unreadable(source, topic, partition, offset)
        log_id = source.log_id(topic)
    with closing(KafkaSink(settings.kafka)) as sink:
        skip_batch(sink, log_id, found)
    skipped = {"offset": found.offset, "next_offset": found.next_offset, "bytes": len(found.batch)}
    print_mapping("skipped", skipped | {"reason": found.reason}, as_json)


@app.command()
def traffic(
    ctx: typer.Context,
    rate: Annotated[float, typer.Option(min=0.1, help="Events per second; with --world, visits.")] = 100.0,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Duration; with --world, of each simulated day.")
    ] = 10.0,
    api: Annotated[str, typer.Option(help="Send to this API instead of Kafka.")] = "",
    users: Annotated[int, typer.Option(min=1, help="Number of users.")] = 10_000,
    skew: Annotated[float, typer.Option(min=0.0, help="Zipf exponent of users and items; 0: uniform.")] = 1.1,
    seed: Annotated[int, typer.Option(help="Seed of users, items and event types.")] = 0,
    world: Annotated[
        Path | None, typer.Option(help="Simulate the users of this world (`recsys simulate history`).")
    ] = None,
    day: Annotated[int, typer.Option(min=0, help="First day of the world to play.")] = 0,
    days: Annotated[int, typer.Option(min=1, help="Number of days to play.")] = 1,
    k: Annotated[int, typer.Option(min=1, help="Items per requested list.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """Send synthetic events about the lake's items at a fixed rate, without waiting for responses.

    With --world, simulated users are clients of the API: they request lists, click, read, buy and leave, over a day
    with a quiet night and a busy evening. The simulated time is in world-clock.json next to the world file: start the
    API with RECSYS_CLOCK=<home>/world-clock.json.

    Example: recsys stream traffic --rate 1000 --seconds 60
    """
    import numpy as np

    from infra.evaluation.load.traffic import drive, drive_http, kafka_target, traffic_events
    from infra.evaluation.load.visitors import VisitConfig
    from infra.evaluation.load.world_days import play_days
    from infra.local.services import connected
    from recsys.items.item_table import read_items
    from streaming.log import KafkaSink

    refuse(ctx, world is not None, ("users", "skew", "seed"), "--world has its own users")
    refuse(ctx, world is None, ("day", "days", "k"), "it is of a simulated world; add --world FILE")
    settings, stop = StreamSettings(), stop_event()
    if world is not None:
        config = VisitConfig(rate=rate, day_s=seconds, k=k, day=day)
        print_mapping("visits", asyncio.run(play_days(api, world, config, days, stop)), as_json)
        return
    events = traffic_events(read_items(settings.lake / "items" / "items.parquet"), users, skew, seed)
    count = round(rate * seconds)
    if api:
        sent = asyncio.run(drive_http(api, events, rate, count, stop))
    else:
        sink = KafkaSink(connected(settings).kafka, settings.partitions)
        try:
            sent = asyncio.run(drive(kafka_target(sink), events, rate, count, stop))
        finally:
            sink.close()
    figures: dict[str, object] = {"accepted": sent.accepted, "refused": sent.refused}
    if sent.seconds:
        p50, p99 = np.percentile(sent.seconds, [50, 99]) * 1_000
        figures |= {"accepted_after_p50_ms": round(p50, 2), "accepted_after_p99_ms": round(p99, 2)}
    print_mapping("traffic", figures, as_json)
