"""What `recsys bench parity` compares: what was streamed, Spark's recomputation of it, and a sample by brute force."""

import random
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.evaluation.benchmarks.feature_fixture import FeatureFixture
from recsys.contracts.events import Event
from recsys.contracts.impressions import Impression, impression_events
from recsys.contracts.merges import Merges
from recsys.contracts.state import EntityState
from recsys.features.aggregates import Entity, parse_cell
from recsys.features.definitions import FEATURES
from recsys.features.reference import ReferenceSource, reference_features
from recsys.lake.lake import IMPRESSIONS
from recsys.spark_session import Session
from recsys.store.union import StateUnion
from training.features.feature_job import FeatureJob
from training.features.job import build
from training.features.packing import unpacked
from training.features.state_job import entity_state, state

Tally = dict[int, tuple[int, ...]]  # bucket → looks and clicks


@dataclass(frozen=True)
class Streamed:
    """What went through the log, and what Redis has of it as of `now_ms`. `events`: as sent. `tallies`: what each list
    was served with, by request."""

    events: Sequence[Event]
    served: Sequence[Impression]
    merges: Merges
    tallies: Mapping[str, Tally]
    users: Mapping[str, EntityState]
    items: Mapping[str, EntityState]
    now_ms: int


def compare(
    spark: Session,
    home: Path,
    streamed: Streamed,
    fixture: FeatureFixture,
    sampled: int,
    buckets: int,
    rng: random.Random,
) -> dict[str, float]:
    """Figures of the comparisons; the lake is `home`/lake. `sampled`: lines and impressions, each, that brute force
    recomputes. `buckets`: of the Spark job."""
    with tempfile.TemporaryDirectory(dir=home) as output:
        job = FeatureJob(str(home / "lake"), output, negatives=0, buckets=buckets, trust=False)
        build(spark, job)
        examples = {row["example_id"]: row for row in _read(Path(output) / "examples")}
        rows = state(spark, job, streamed.now_ms).toArrow().to_pylist()
    figures = _compare_states(_states(rows, streamed), streamed)

    served, merges = streamed.served, streamed.merges
    logged = {row["event_id"]: row["features"] for row in _read(home / "lake" / IMPRESSIONS)}
    pairs = [(np.array(f, np.float32), _features(examples[e])) for e, f in logged.items()]
    figures |= {
        "lists_of_merged_users": sum(len(merges.members(s.user_id, s.time_ms)) > 1 for s in served),
        "lines_served": sum(len(s.items) for s in served),
        "lines_logged": len(logged),
        "compared_floats": sum(a.size for a, _ in pairs),
        "mismatching_served_floats": sum(_different_bits(a, b) for a, b in pairs),
    }
    brute_force = _BruteForce(streamed, fixture)
    sample = [
        examples[event_id]
        for of in (examples, logged)
        for event_id in rng.sample(sorted(of), min(sampled, len(of)))
    ]
    tallies = [(_tally(examples[e]), streamed.tallies[examples[e]["request_id"]]) for e in logged]
    tallies += [(_tally(example), brute_force.tally(example)) for example in sample]
    return figures | {
        "compared_tallies": len(tallies),
        "mismatching_tallies": sum(ours != theirs for ours, theirs in tallies),
        "compared_with_brute_force": len(sample) * FEATURES.dimension,
        "mismatching_brute_force_floats": sum(
            _different_bits(_features(example), brute_force.features(example)) for example in sample
        ),
    }


def _states(rows: Sequence[Mapping[str, Any]], streamed: Streamed) -> dict[tuple[Entity, str], EntityState]:
    """Spark's states by entity and id; of a user that ids were merged into, the union."""
    found = {(Entity(row["entity"]), row["id"]): entity_state(row) for row in rows}
    union = StateUnion(FEATURES)
    of_members = {
        (Entity.USER, user_id): union.of(
            {
                id_: found.get((Entity.USER, id_), EntityState())
                for id_ in streamed.merges.members(user_id, streamed.now_ms)
            }
        )
        for user_id in streamed.merges.ids
    }
    return found | of_members


def _compare_states(states: Mapping[tuple[Entity, str], EntityState], streamed: Streamed) -> dict[str, float]:
    """Compare integers of Redis with Spark's: the cells that a window still reaches, and every visit."""
    compared = wrong = visits = wrong_visits = 0
    for (entity, id_), ours in states.items():
        theirs = (streamed.users if entity is Entity.USER else streamed.items).get(id_, EntityState())
        left, right = (live_cells(entity, s, streamed.now_ms) for s in (ours, theirs))
        compared += len(left.keys() | right.keys())
        wrong += sum(left.get(cell) != right.get(cell) for cell in left.keys() | right.keys())
        visits += sum(map(len, ours.histories.values()))
        wrong_visits += ours.histories != theirs.histories
    wrong += sum((Entity.ITEM, i) not in states for i in streamed.items)
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


class _BruteForce:
    """Examples recomputed from the events alone."""

    def __init__(self, streamed: Streamed, fixture: FeatureFixture) -> None:
        self._fixture = fixture
        self._merges = streamed.merges
        log = [*streamed.events, *(e for shown in streamed.served for e in impression_events(shown))]
        self._by_id = {event.event_id: event for event in log}  # each once
        self._of: dict[str, list[Event]] = defaultdict(list)  # user or item
        for event in self._by_id.values():
            self._of[event.user_id].append(event)
            self._of[event.item_id].append(event)

    def features(self, example: Mapping[str, Any]) -> NDArray[np.float32]:
        return reference_features(FEATURES, self._source(example))

    def tally(self, example: Mapping[str, Any]) -> Tally:
        return self._source(example).tally(FEATURES.tallied)

    def _source(self, example: Mapping[str, Any]) -> ReferenceSource:
        """Of the events that the pair's features can depend on."""
        user, now_ms = self._fixture.user_of(example["user_id"]), example["event_time_ms"]
        item = next(i for i in self._fixture.items if i.item_id == example["item_id"])
        ids = self._merges.members(user.user_id, now_ms)
        near = [e for id_ in ids for e in self._of[id_]]
        near += [e for e in self._of[item.item_id] if e.user_id not in ids]
        context = self._by_id[example["example_id"]].context
        return ReferenceSource(near, user, item, now_ms, context, ids[1:])


def _tally(example: Mapping[str, Any]) -> Tally:
    amounts = zip(example["tally_looks"], example["tally_clicks"], strict=True)
    return dict(zip(example["tally_buckets"], amounts, strict=True))


def _features(example: Mapping[str, Any]) -> NDArray[np.float32]:
    return np.frombuffer(example["features"], "<f4")


def _different_bits(left: NDArray[np.float32], right: NDArray[np.float32]) -> int:
    return int(np.count_nonzero(left.view(np.uint32) != right.view(np.uint32)))


def _read(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("dt=*/[!._]*.parquet")):
        yield from unpacked(pq.ParquetFile(path).read()).to_pylist()
