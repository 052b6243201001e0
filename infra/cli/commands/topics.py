"""`recsys topics`: create, check and grow the topics of a Kafka."""

from contextlib import closing
from dataclasses import asdict
from typing import Annotated

import typer

from infra.terminal import JsonFlag, console, print_json, print_mapping, print_table
from recsys.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Create, check and grow the topics.")


@app.command()
def create(as_json: JsonFlag = False) -> None:
    """Create the topics that are missing, as `recsys up` does. Those that are there stay as they are.

    Example: recsys topics create
    """
    from infra.local.services import with_kafka
    from recsys.contracts.types import Topic
    from streaming.log import create_topics

    settings = with_kafka(Settings())
    created = create_topics(settings.kafka, list(Topic), settings.partitions, settings.topic_rules)
    print_mapping("topics", {"created": created}, as_json)


@app.command()
def check(as_json: JsonFlag = False) -> None:
    """Compare the topics with the settings; print each difference with what to do. Exit code 1: there is one.

    Example: recsys topics check
    """
    from infra.local.services import with_kafka
    from streaming.log.topic_check import check_topics

    settings = with_kafka(Settings())
    differences = check_topics(settings.kafka, settings.partitions, settings.topic_rules)
    if as_json:
        print_json({"ok": not differences, "differences": [asdict(d) for d in differences]})
    elif differences:
        columns = ("topic", "what", "wanted", "found", "what to do")
        print_table("topics", columns, [tuple(asdict(d).values()) for d in differences])
    else:
        console.print("all topics are as the settings want them")
    if differences:
        raise typer.Exit(1)


@app.command()
def grow(
    partitions: Annotated[int, typer.Argument(min=1, max=1024, help="Partitions from now on.")],
    as_json: JsonFlag = False,
) -> None:
    """Give `events` and `impressions` more partitions, so that more workers can share them. Nothing is moved or lost.

    Worker and archiver stop when they notice. Set RECSYS_PARTITIONS to the new number and start them again, then the
    API. Producers may continue all the time. Run it also after an operator has added partitions; it may be repeated.

    Example: recsys topics grow 8
    """
    from infra.cli.stores import feature_store
    from infra.local.services import connected
    from streaming.growth import grow as grow_all
    from streaming.log import KafkaSource
    from streaming.log.topic_check import grow_topics

    settings = connected(Settings())
    kafka, store = settings.kafka, feature_store(settings)
    grow_topics(kafka, partitions, only_check=True)  # what store and lake learn cannot be taken back
    with closing(store), closing(KafkaSource(kafka)) as source:
        before = grow_all(source, store, settings.lake, partitions, lambda count: grow_topics(kafka, count))
    print_mapping("partitions", {"before": dict(before), "now": partitions}, as_json)
    if not as_json and settings.partitions != partitions:
        console.print(f"set RECSYS_PARTITIONS={partitions} and start worker, archiver and API again")
