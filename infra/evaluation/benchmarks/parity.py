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
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.evaluation.benchmarks.feature_fixture import FeatureFixture
from infra.evaluation.stream_rig import StreamRig
from infra.local.children import recsys_command
from recsys.contracts.events import Event
from recsys.contracts.impression_record import impression_record
from recsys.contracts.impressions import Impression, ShownItem, impression_events
from recsys.contracts.merges import Merges, UserMerge
from recsys.contracts.state import EntityState
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, Topic
from recsys.features.aggregates import Entity, parse_cell
from recsys.features.assemble import assemble
from recsys.features.definitions import FEATURES
from recsys.features.item_columns import ItemColumns
from recsys.features.reference import ReferenceSource, reference_features
from recsys.features.tally import TallyReader
from recsys.lake.lake import IMPRESSIONS
from recsys.result import Goal, Result
from recsys.spark_session import Session, spark_session
from recsys.store.union import StateUnion
from streaming.lake_writer.commit import read_checkpoint
from training.features.job import FeatureJob, build
from training.features.packing import unpacked
from training.features.state_job import entity_state, state

_WAIT_S = 900.0
Tallies = dict[str, dict[int, tuple[int, ...]]]  # request id → the tally that it was served with
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
        tallies: Tallies = {}
        events, served, merged = _stream(rig, config, fixture, rng, tallies)
        streamed_s = time.monotonic() - started
        now_ms = served[-1].time_ms + 1
        items = dict(rig.store.all_items())
        expected = len(events) + len(served) + len(merged)
        rig.wait_until(lambda: _archived(rig) >= expected, _WAIT_S, "archiving everything")
        archiver.stop()
        fixture.write_tables(rig.home / "lake")
        lake_ms = time.monotonic()
        spark = spark_session("local[2]")
        try:
            figures = _recomputed(
                spark, rig, config, fixture, events, served, Merges(merged), items, now_ms, rng, tallies
            )
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


# --- the stream -------------------------------------------------------------------------------------------------


def _stream(
    rig: StreamRig, config: ParityBench, fixture: FeatureFixture, rng: random.Random, tallies: Tallies
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
    tallies: Tallies,
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
        lists.append(Impression(*ids, items=shown, features=matrix, context=context))
    return lists


# --- the recomputation ------------------------------------------------------------------------------------------


def _recomputed(
    spark: Session,
    rig: StreamRig,
    config: ParityBench,
    fixture: FeatureFixture,
    events: Sequence[Event],
    served: Sequence[Impression],
    merges: Merges,
    items: Mapping[str, EntityState],
    now_ms: int,
    rng: random.Random,
    tallies: Tallies,
) -> dict[str, float]:
    home = rig.home
    with tempfile.TemporaryDirectory(dir=home) as output:
        job = FeatureJob(str(home / "lake"), output, negatives=0, buckets=config.buckets)
        build(spark, job)
        examples = {row["example_id"]: row for row in _read(Path(output) / "examples")}
        rows = state(spark, job, now_ms).toArrow().to_pylist()
    users = {user.user_id: rig.store.user(user.user_id) for user in fixture.users}
    figures = _compare_states(_states(rows, merges, now_ms), users, items, now_ms)

    logged = {row["event_id"]: row["features"] for row in _read(home / "lake" / IMPRESSIONS)}
    pairs = [
        (np.array(f, np.float32), np.frombuffer(examples[e]["features"], "<f4")) for e, f in logged.items()
    ]
    figures |= {
        "lists_of_merged_users": sum(len(merges.members(s.user_id, s.time_ms)) > 1 for s in served),
        "lines_served": sum(len(s.items) for s in served),
        "lines_logged": len(logged),
        "compared_floats": sum(a.size for a, _ in pairs),
        "mismatching_served_floats": sum(_different_bits(a, b) for a, b in pairs),
    }
    everything = _Events([*events, *(e for s in served for e in impression_events(s))], merges)
    sample = rng.sample(sorted(examples), min(config.sampled, len(examples)))
    sample += rng.sample(sorted(logged), min(config.sampled, len(logged)))
    wrong = sum(_brute_force_differs(examples[e], everything, fixture) for e in sample)
    served_tallies = [(tally_of(examples[e]), tallies[examples[e]["request_id"]]) for e in logged]
    brute_force = [
        (tally_of(examples[e]), _reference(examples[e], everything, fixture).tally(FEATURES.tallied))
        for e in sample
    ]
    return figures | {
        "compared_tallies": len(served_tallies) + len(brute_force),
        "mismatching_tallies": sum(ours != theirs for ours, theirs in [*served_tallies, *brute_force]),
        "compared_with_brute_force": len(sample) * FEATURES.dimension,
        "mismatching_brute_force_floats": wrong,
    }


def _states(
    rows: Sequence[Mapping[str, Any]], merges: Merges, now_ms: int
) -> dict[tuple[Entity, str], EntityState]:
    """Spark's states by entity and id; of a user that ids were merged into, the union."""
    found = {(Entity(row["entity"]), row["id"]): entity_state(row) for row in rows}
    union = StateUnion(FEATURES)
    of_members = {
        (Entity.USER, user_id): union.of(
            {id_: found.get((Entity.USER, id_), EntityState()) for id_ in merges.members(user_id, now_ms)}
        )
        for user_id in merges.ids
    }
    return found | of_members


def _compare_states(
    states: Mapping[tuple[Entity, str], EntityState],
    users: Mapping[str, EntityState],
    items: Mapping[str, EntityState],
    now_ms: int,
) -> dict[str, float]:
    """Compare integers of Redis with Spark's: the cells that a window still reaches, and every visit."""
    compared = wrong = visits = wrong_visits = 0
    for (entity, id_), ours in states.items():
        theirs = (users if entity is Entity.USER else items).get(id_, EntityState())
        left, right = live_cells(entity, ours, now_ms), live_cells(entity, theirs, now_ms)
        compared += len(left.keys() | right.keys())
        wrong += sum(left.get(cell) != right.get(cell) for cell in left.keys() | right.keys())
        visits += sum(map(len, ours.histories.values()))
        wrong_visits += ours.histories != theirs.histories
    wrong += sum((Entity.ITEM, i) not in states for i in items)
    return {
        "compared_integers": compared,
        "mismatching_integers": wrong,
        "compared_visits": visits,
        "mismatching_histories": wrong_visits,
    }


def live_cells(entity: Entity, state_: EntityState, now_ms: int) -> dict[str, int]:
    """The cells without tiles that no window reaches: the store may have dropped them."""
    live = {}
    for cell, amount in state_.cells.items():
        name, tile, _ = parse_cell(cell)
        aggregate = FEATURES.aggregate(entity, name)
        # a cell without an aggregate stays, so that it shows as a mismatch
        hop = aggregate.hop_ms if aggregate else 0
        if aggregate is None or not hop or now_ms // hop - tile < aggregate.retention_ms // hop:
            live[cell] = amount
    return live


def _brute_force_differs(example: Mapping[str, Any], events: "_Events", fixture: FeatureFixture) -> int:
    user = next(u for u in fixture.users if u.user_id == example["user_id"])
    item = next(i for i in fixture.items if i.item_id == example["item_id"])
    shown = events.by_id[example["example_id"]]
    now_ms = example["event_time_ms"]
    merged, near = events.near(user.user_id, item.item_id, now_ms)
    expected = reference_features(FEATURES, near, user, item, now_ms, shown.context, merged)
    return _different_bits(np.frombuffer(example["features"], "<f4"), expected)


def _reference(example: Mapping[str, Any], events: "_Events", fixture: FeatureFixture) -> ReferenceSource:
    user = next(u for u in fixture.users if u.user_id == example["user_id"])
    item = next(i for i in fixture.items if i.item_id == example["item_id"])
    merged, near = events.near(example["user_id"], example["item_id"], example["event_time_ms"])
    return ReferenceSource(near, user, item, example["event_time_ms"], {}, merged)


def tally_of(example: Mapping[str, Any]) -> dict[int, tuple[int, ...]]:
    """An example's tally: bucket → looks and clicks."""
    amounts = zip(example["tally_looks"], example["tally_clicks"], strict=True)
    return dict(zip(example["tally_buckets"], amounts, strict=True))


class _Events:
    """Every event once, by id and by user or item."""

    def __init__(self, events: Sequence[Event], merges: Merges) -> None:
        self._merges = merges
        self.by_id = {event.event_id: event for event in events}
        self._of: dict[str, list[Event]] = defaultdict(list)
        for event in self.by_id.values():
            self._of[event.user_id].append(event)
            self._of[event.item_id].append(event)

    def near(self, user_id: str, item_id: str, now_ms: int) -> tuple[list[str], list[Event]]:
        """The ids merged into the user as of `now_ms`, and the events that the features of the pair can depend on."""
        ids = self._merges.members(user_id, now_ms)
        of_user = [e for id_ in ids for e in self._of[id_]]
        return ids[1:], [*of_user, *(e for e in self._of[item_id] if e.user_id not in ids)]


def _different_bits(left: NDArray[np.float32], right: NDArray[np.float32]) -> int:
    return int(np.count_nonzero(left.view(np.uint32) != right.view(np.uint32)))


def _out_of_order(events: Sequence[Event]) -> int:
    times = np.array([e.event_time_ms for e in events])
    return int(np.count_nonzero(times < np.maximum.accumulate(times)))


def _archived(rig: StreamRig) -> int:
    """Records that the archiver has committed."""
    return sum(place.offset for place in read_checkpoint(rig.home / "lake").values())


def _read(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("dt=*/[!._]*.parquet")):
        yield from unpacked(pq.ParquetFile(path).read()).to_pylist()
