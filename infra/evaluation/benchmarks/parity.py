"""`recsys bench parity`: served = logged = recomputed, and stream = batch = brute force.

A seeded log arrives out of order and with duplicates, through Kafka and the feature worker into Redis. Between its
segments lists are served from Redis, logged with their features, and their impressions go the same way. The
archiver lands everything; Spark builds examples and states from the lake. Before each segment's lists, some users are
merged into others, whose lists then have both histories. Compared, bit by bit:

1. cells and histories of every user and item: Redis against Spark;
2. the features of every served line: as logged against Spark's recomputation as of that instant;
3. a sample of those, and of the log's other examples: Spark against brute force.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from infra.evaluation.benchmarks.feature_fixture import FeatureFixture
from infra.evaluation.benchmarks.parity_comparison import Streamed, Tally, compare
from infra.evaluation.stream_rig import StreamRig
from infra.local.children import recsys_command
from recsys.contracts.events import Event
from recsys.contracts.impression_record import impression_record
from recsys.contracts.impressions import Impression, ShownItem
from recsys.contracts.merges import Merges, UserMerge
from recsys.contracts.types import DEEP, MS_PER_DAY, MS_PER_HOUR, Topic
from recsys.features.assemble import assemble
from recsys.features.definitions import FEATURES
from recsys.features.item_columns import ItemColumns
from recsys.features.tally import TallyReader
from recsys.result import Goal, Result
from recsys.spark_session import spark_session
from streaming.lake_writer.commit import read_checkpoint

_WAIT_S = 900.0
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class ParityBench:
    """`events` in `segments` of `segment_ms`; after each, `requests` lists of `lines` items are served."""

    seed: int = 0
    events: int = 200_000
    users: int = 2_000
    items: int = 1_000
    segments: int = 6
    segment_ms: int = 16 * MS_PER_HOUR
    lateness_ms: int = 6 * MS_PER_HOUR
    duplicates: float = 0.02
    requests: int = 40
    lines: int = 50
    merges: int = 40  # per segment
    sampled: int = 400  # lines and impressions that brute force recomputes
    buckets: int = 64

    @classmethod
    def quick(cls, seed: int) -> "ParityBench":
        return cls(
            seed=seed,
            events=6_000,
            users=100,
            items=80,
            segments=3,
            requests=8,
            lines=20,
            merges=6,
            sampled=60,
        )


def run(config: ParityBench) -> Result:
    """Compare everything on private servers."""
    rng = random.Random(config.seed)  # noqa: S311
    days = config.segments * (config.segment_ms + 1) / MS_PER_DAY
    fixture = FeatureFixture.make(config.users, config.items, days, config.seed)
    with StreamRig() as rig:
        started = time.monotonic()
        archiver = rig.start_worker(*recsys_command("stream", "archive", "--json"))
        for _ in range(2):
            rig.start_worker()
        tallies: dict[str, Tally] = {}
        events, served, merged = _stream(rig, config, fixture, rng, tallies)
        streamed_s = time.monotonic() - started
        users = {user.user_id: rig.store.user(user.user_id) for user in fixture.users}
        items, now_ms = dict(rig.store.all_items()), served[-1].time_ms + 1
        streamed = Streamed(events, served, Merges(merged), tallies, users, items, now_ms)
        expected = len(events) + len(served) + len(merged)
        rig.wait_until(lambda: _archived(rig) >= expected, _WAIT_S, "archiving everything")
        archiver.stop()
        fixture.write_tables(rig.home / "lake")
        lake_ms = time.monotonic()
        spark = spark_session("local[2]")
        try:
            figures = compare(spark, rig.home, streamed, fixture, config.sampled, config.buckets, rng)
        finally:
            spark.stop()
        figures["batch_s"] = time.monotonic() - lake_ms
    sent = len({e.key for e in events})
    figures |= {
        "merges_sent": len(merged),
        "events": sent + sum(len(s.items) for s in served),
        "duplicates_sent": len(events) - sent,
        "out_of_order_sent": _out_of_order(events),
        "stream_s": streamed_s,
    }
    goals = {name: Goal("==", 0) for name in figures if name.startswith("mismatching")}
    goals |= {
        "events": Goal(">=", config.events),
        "duplicates_sent": Goal(">", 0),
        "compared_floats": Goal(">", 0),
        "lists_of_merged_users": Goal(">", 0),
    }
    return Result("bench parity", config.seed, figures, goals)


def _stream(
    rig: StreamRig,
    config: ParityBench,
    fixture: FeatureFixture,
    rng: random.Random,
    tallies: dict[str, Tally],
) -> tuple[list[Event], list[Impression], list[UserMerge]]:
    """Send each segment and serve once it is applied. Returns the events as sent, the served lists and the merges; adds
    the tally that each list was served with."""
    sent: list[Event] = []
    served: list[Impression] = []
    merged: list[UserMerge] = []
    per_segment = -(-config.events // config.segments)
    for segment in range(config.segments):
        start_ms = fixture.start_ms + segment * (config.segment_ms + 1)
        for event in fixture.log(
            per_segment,
            start_ms,
            config.segment_ms,
            config.lateness_ms,
            config.duplicates,
            f"s{segment}",
            shown=False,
        ):
            rig.sink.append(Topic.EVENTS, event.user_id, _encode(event.to_dict()))
            sent.append(event)
        merged += _merge(rig, config, fixture, rng, start_ms)
        _settle(rig)
        targets = [merge.into for merge in merged]
        now_ms = start_ms + config.segment_ms
        lists = _serve(rig, config, fixture, rng, now_ms, f"request-{segment}", targets, tallies)
        for shown in lists:
            rig.sink.append(Topic.IMPRESSIONS, shown.user_id, impression_record(shown))
        served += lists
        _settle(rig)
    return sent, served, merged


def _merge(
    rig: StreamRig, config: ParityBench, fixture: FeatureFixture, rng: random.Random, start_ms: int
) -> list[UserMerge]:
    """Merge some users into active ones, at times of the segment; among them are chains, and ids that belong to another
    user already."""
    merges: list[UserMerge] = []
    while len(merges) < config.merges:
        merge = UserMerge(
            rng.choice(fixture.users).user_id,
            fixture.user(rng).user_id,
            start_ms + rng.randrange(config.segment_ms),
        )
        if merge.user_id != merge.into:
            merges.append(merge)
            rig.sink.append(Topic.USERS, merge.key, _encode(merge.to_dict()))
    rig.sink.flush(60.0)
    rig.wait_until(lambda: all(_is_linked(rig, merge) for merge in merges), _WAIT_S, "applying the merges")
    return merges


def _is_linked(rig: StreamRig, merge: UserMerge) -> bool:
    """Whether the store has it, or an earlier one of the same ids."""
    into = rig.store.links(merge.user_id).into
    return any(other == merge.into and ms <= merge.changed_ms for ms, other in into)


def _settle(rig: StreamRig) -> None:
    rig.sink.flush(60.0)
    rig.wait_until(lambda: rig.applied() >= rig.appended(), _WAIT_S, "applying what was sent")


def _serve(
    rig: StreamRig,
    config: ParityBench,
    fixture: FeatureFixture,
    rng: random.Random,
    now_ms: int,
    name: str,
    targets: Sequence[str],
    tallies: dict[str, Tally],
) -> list[Impression]:
    """Serve lists as the API does: the user from Redis, the items from the columns, features logged as read. Every
    second list is of a user of `targets`."""
    columns = ItemColumns(fixture.items, FEATURES)
    columns.load(rig.store.all_items())
    lists = []
    for n in range(config.requests):
        user = fixture.user_of(rng.choice(targets)) if n % 2 else fixture.user(rng)
        rows = np.array(rng.sample(range(config.items), config.lines), np.int32)
        context, known = {"tab": str(n % 4)}, rig.store.user(user.user_id)
        matrix = assemble(FEATURES, known, user.attributes, columns, rows, now_ms, context)
        _, buckets, amounts = TallyReader(FEATURES).read(known, now_ms)
        tallies[f"{name}-{n}"] = dict(zip(buckets.tolist(), map(tuple, amounts.tolist()), strict=True))
        shown = [
            ShownItem(i.item_id, position, 0.0, categories=i.categories, creator=i.creator)
            for position, i in enumerate(fixture.items[row] for row in rows)
        ]
        ids = f"{name}-{n}", user.user_id, now_ms, "parity", FEATURES.fingerprint
        lists.append(
            Impression(
                *ids, items=shown, features=matrix, context=context, narrowed_from=1 if n % 3 == 0 else DEEP
            )
        )
    return lists


def _out_of_order(events: Sequence[Event]) -> int:
    times = np.array([e.event_time_ms for e in events])
    return int(np.count_nonzero(times < np.maximum.accumulate(times)))


def _archived(rig: StreamRig) -> int:
    """Records that the archiver has committed."""
    return sum(place.offset for place in read_checkpoint(rig.home / "lake").values())
