"""More partitions for topics in use: the store and the lake learn of them, then Kafka adds them.

Nothing moves: a user's state stays in the part of the store where it is (`recsys.store.redis_writer`). What changes is
from where a user's events come, while records that were sent before, or by producers that have not noticed, are still
in the old partitions. Both are applied, whichever is read first, because states merge in any order and event ids are
compared by user, not by partition.

Lateness is decided by partition (`recsys.contracts.time_rules`). A new one begins with the latest watermark of its
topic, in store and lake alike: with none it would take events so old that their ids are forgotten, and the stream could
count twice what a batch counts once.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from recsys.contracts.event_log import EventSource
from recsys.contracts.topic_rules import GROWING
from recsys.store.base import FeatureStore
from streaming.lake_writer.archive import TOPICS
from streaming.lake_writer.commit import add_partitions


def grow(
    source: EventSource,
    store: FeatureStore,
    lake: Path,
    partitions: int,
    add: Callable[[int], Mapping[str, int]],
) -> Mapping[str, int]:
    """Let store and lake know `partitions` of each topic that may grow, then add them to Kafka, unless an operator has.
    Run it again after a failure. Returns the numbers before.

    `add`: gives them to the topics, and returns how many each had.
    Raises `InvalidConfig`: a topic has more already.
    """
    used = store.fingerprint() is not None
    for topic in TOPICS:
        found = source.partitions(topic)
        count = max(found, partitions) if topic in GROWING else found
        stored = [store.checkpoint(topic, number) for number in range(count)] if used else [None] * count
        watermark_ms = max((place.watermark_ms for place in stored if place), default=0)
        new = [number for number, place in enumerate(stored) if place is None]
        known = add_partitions(lake, {f"{topic}/{number}": watermark_ms for number in new})
        for number in new if used else ():
            store.add_partition(topic, number, source.log_id(topic), known[f"{topic}/{number}"])
    return add(partitions)
