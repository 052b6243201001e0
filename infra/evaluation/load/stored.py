"""Fill an online store as feature workers do, without a log."""

from collections import defaultdict
from collections.abc import Iterable

from recsys.contracts.event_log import partition_of
from recsys.contracts.events import Event
from recsys.contracts.types import Topic
from recsys.store.base import Batch, FeatureStore

_BATCH = 100  # events in one call, as the worker


def fill(
    store: FeatureStore, events: Iterable[Event], partitions: int = 1, topic: str = Topic.EVENTS
) -> None:
    """Apply the events, each partition's in their order."""
    by_partition: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        by_partition[partition_of(event.user_id, partitions)].append(event)
    for partition, own in sorted(by_partition.items()):
        epoch, watermark = store.claim(topic, partition, "fill").epoch, 0
        for start in range(0, len(own), _BATCH):
            batch = own[start : start + _BATCH]
            offsets = range(start, start + len(batch))
            watermark = max(watermark, *(event.event_time_ms for event in batch))
            store.apply(Batch(topic, partition, epoch, start, offsets.stop, watermark, offsets, batch))
