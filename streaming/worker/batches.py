"""Cut the records of one partition into batches that the store can apply, in offset order."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.errors import InvalidEvent
from recsys.contracts.event_log import Record, remembered_partition_of
from recsys.contracts.events import Event
from recsys.contracts.merges import UserMerge
from recsys.contracts.time_rules import TimeRules
from recsys.contracts.types import Topic
from recsys.observability.tracing import parent_of
from recsys.store.base import Batch
from streaming.acceptance import accept, accept_item_change, accept_user_change


@dataclass(slots=True)
class Claim:
    """A topic partition that this worker writes, and how far it has read it (batches in flight included)."""

    topic: str
    partition: int
    epoch: int
    position: int
    watermark_ms: int

    def batch(self, previous: int, offsets: Sequence[int] = (), events: Sequence[Event] = ()) -> Batch:
        """The batch of the records from `previous` to the position."""
        return Batch(
            topic=self.topic,
            partition=self.partition,
            epoch=self.epoch,
            previous=previous,
            next_offset=self.position,
            watermark_ms=self.watermark_ms,
            offsets=offsets,
            events=events,
        )


@dataclass(slots=True)
class Prepared:
    """A batch, the changes of items and users to write before it, and the records that were refused."""

    batch: Batch
    items: list[ItemChange] = field(default_factory=list)
    users: list[UserChange] = field(default_factory=list)
    merges: list[UserMerge] = field(default_factory=list)
    refused: list[tuple[Record, InvalidEvent]] = field(default_factory=list)
    clamped: int = 0
    elsewhere: int = 0  # records in another partition than their user's
    oldest_append_ms: int = 0
    parents: list[str] = field(default_factory=list)  # `traceparent` headers of the records


def batches(
    claim: Claim, records: Iterable[Record], partitions: int, rules: TimeRules, max_events: int
) -> Iterator[Prepared]:
    """Parse consecutive records of the claimed partition into batches of about `max_events` events.
    Moves the claim's position and watermark."""
    offsets: list[int] = []
    events: list[Event] = []
    taken, previous = 0, claim.position
    prepared = Prepared(claim.batch(previous))
    for record in records:
        if record.offset < claim.position:
            continue  # read before a seek
        try:
            if record.topic == Topic.ITEMS:
                prepared.items.append(accept_item_change(record))
            elif record.topic == Topic.USERS:
                change = accept_user_change(record)
                if isinstance(change, UserMerge):
                    prepared.merges.append(change)
                elif change is not None:
                    prepared.users.append(change)
            else:
                accepted = accept(record, claim.watermark_ms, rules)
                events += accepted.events
                offsets += [record.offset] * len(accepted.events)
                prepared.clamped += accepted.clamped
                prepared.elsewhere += any(
                    remembered_partition_of(e.user_id, partitions) != record.partition
                    for e in accepted.events[:1]
                )
                claim.watermark_ms = max([claim.watermark_ms, *(e.event_time_ms for e in accepted.events)])
        except InvalidEvent as error:
            prepared.refused.append((record, error))
        claim.position = record.offset + 1
        taken += 1
        if record.headers and (parent := parent_of(record.headers)):
            prepared.parents.append(parent)
        prepared.oldest_append_ms = prepared.oldest_append_ms or record.append_time_ms
        if len(events) >= max_events or taken >= 4 * max_events:
            prepared.batch = claim.batch(previous, offsets, events)
            yield prepared
            offsets, events, taken, previous = [], [], 0, claim.position
            prepared = Prepared(claim.batch(previous))
    if taken:
        prepared.batch = claim.batch(previous, offsets, events)
        yield prepared
