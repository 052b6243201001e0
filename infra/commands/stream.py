"""`recsys stream`: the processes between the event log, the store and the lake."""

from collections import Counter
from dataclasses import asdict
from itertools import islice
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from infra.console import JsonFlag, console, print_json, print_mapping, print_table
from infra.local.services import connected
from infra.signals import stop_event
from recsys.lake import count_rows
from recsys.types import Topic
from streaming import archive as archiver
from streaming.dead_letter import read_dead_letters
from streaming.log import KafkaSink, KafkaSource
from streaming.replay import Position
from streaming.replay import replay as run_replay
from streaming.settings import StreamSettings

app = typer.Typer(no_args_is_help=True, help="Feature worker, archiver, replay, dead letters.")


@app.command()
def archive(as_json: JsonFlag = False) -> None:
    """Write the topics `events` and `impressions` to the lake until Ctrl-C, each record exactly once.

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
