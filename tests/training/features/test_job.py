"""The Spark job on a small lake: the kernels' rows, by day, again and again, and nothing half."""

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from recsys.contracts.attribution import Attribution
from recsys.contracts.errors import InvalidData
from recsys.contracts.event_log import partition_of
from recsys.contracts.events import Event
from recsys.contracts.merges import Merges, UserMerge
from recsys.contracts.types import ENGAGEMENT, MS_PER_DAY, MS_PER_MINUTE, EventType, Topic
from recsys.features.definitions import FEATURES, STARRED
from recsys.features.describe import DEFINITIONS, differences
from recsys.features.reference import ReferenceSource, reference_features
from recsys.lake.forget import user_digest
from recsys.lake.lake import EVENTS, day_of, day_writer, events_table, start_of, write_parquet
from recsys.lake.merges import merges_path, merges_table
from recsys.spark_session import spark_session
from recsys.store.backfill import Covered, dedupe_since
from recsys.store.base import StateDefinition, StoreConfig
from recsys.store.memory import MemoryFeatureStore
from tests.recsys.features.worlds import START_MS, catalogue, population, random_log
from tests.training.features.test_state_job import folded
from tests.training.features.test_trust import START_MS as START_MS_OF_LOG
from tests.training.features.test_trust import Log
from training.features import job as features_job
from training.features import output_folder, write
from training.features.feature_job import FeatureJob
from training.features.job import build
from training.features.local import build_examples
from training.features.marks import Labelling, day_mark, digest
from training.features.state_job import load_state
from training.features.trust import TRUST

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(900)]

RNG = random.Random(5)
USERS, ITEMS = population(RNG, 6), catalogue(RNG, 8)
LOG = random_log(RNG, USERS, ITEMS, 240, 4 * MS_PER_DAY)
MERGED = [
    UserMerge("user-1", "user-0", START_MS + MS_PER_DAY),
    UserMerge("user-2", "user-1", START_MS + 2 * MS_PER_DAY),
    UserMerge("user-5", "user-3", START_MS),
]
MERGES = Merges(MERGED)
DAYS = sorted({day_of(e.event_time_ms) for e in LOG})


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    session = spark_session("local[1]", "1g", [("spark.sql.shuffle.partitions", "2")])
    yield session
    session.stop()


def write_lake(folder: Path, events: list[Event]) -> Path:
    lake = folder / "lake"
    with day_writer(lake, EVENTS, "test") as writer:
        writer.write(events_table(events))
    texts = pa.map_(pa.string(), pa.string())
    items = {
        "item_id": [i.item_id for i in ITEMS],
        "created_ms": [i.created_ms for i in ITEMS],
        "attributes": pa.array([list(i.attributes.items()) for i in ITEMS], texts),
    }
    users = {
        "user_id": [u.user_id for u in USERS],
        "attributes": pa.array([list(u.attributes.items()) for u in USERS], texts),
    }
    write_parquet(lake / "items" / "items.parquet", pa.table(items))
    write_parquet(lake / "users" / "users.parquet", pa.table(users))
    write_parquet(merges_path(lake), merges_table(MERGED))
    return lake


def read(output: Path, day: str = "*") -> pa.Table:
    """Examples, in an order that does not depend on the files."""
    files = sorted((output / "examples").glob(f"dt={day}/*.parquet"))
    assert files
    rows = pa.concat_tables(pq.ParquetFile(f).read() for f in files)
    order = [(name, "ascending") for name in ("example_id", "user_id", "item_id")]
    return rows.sort_by(order).replace_schema_metadata(None)


def sequences(output: Path) -> pa.Table:
    files = (output / "sequences").glob("*.parquet")
    return pa.concat_tables(pq.ParquetFile(f).read() for f in files).sort_by("user_id")


@pytest.fixture(scope="module")
def built(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureJob, Path]:
    folder = tmp_path_factory.mktemp("built #1")
    job = FeatureJob(str(write_lake(folder, LOG)), str(folder / "features"), buckets=3)
    report = build(spark, job)
    assert report.days == tuple(DAYS)
    assert (report.events, report.examples) == (len(LOG), read(folder / "features").num_rows)
    return job, folder / "features"


def test_examples_are_the_impressions_with_features_as_of_their_instant(
    built: tuple[FeatureJob, Path],
) -> None:
    _, output = built
    rows = read(output).to_pylist()
    types = {e.key: e.type for e in LOG}
    given = {(r["user_id"], r["example_id"]) for r in rows if not r["sampled"]}
    shown = {key for key, kind in types.items() if kind is EventType.IMPRESSION}
    assert given >= shown
    assert {types[key] for key in given - shown} <= STARRED
    for row in RNG.sample(rows, 60):
        user = next(u for u in USERS if u.user_id == row["user_id"])
        item, now = next(i for i in ITEMS if i.item_id == row["item_id"]), row["event_time_ms"]
        _, *merged = MERGES.members(user.user_id, now)
        expected = reference_features(FEATURES, ReferenceSource(LOG, user, item, now, {"tab": "1"}, merged))
        np.testing.assert_array_equal(np.frombuffer(row["features"], "<f4"), expected)


def test_the_newest_days_come_first_and_the_others_later(
    spark: SparkSession, built: tuple[FeatureJob, Path], tmp_path: Path
) -> None:
    job, output = built
    of_day = Counter(day_of(e.event_time_ms) for e in LOG)
    some = replace(job, output=str(tmp_path), newest=of_day[DAYS[-1]] + 1)
    assert build(spark, some).days == tuple(DAYS[-2:])
    assert sequences(tmp_path).equals(sequences(output))
    assert build(spark, replace(some, newest=0)).days == tuple(DAYS[:-2])
    assert read(tmp_path).sort_by("example_id").equals(read(output).sort_by("example_id"))


def test_without_spark_the_rows_are_the_same(built: tuple[FeatureJob, Path], tmp_path: Path) -> None:
    job, output = built
    assert build_examples(Path(job.lake), tmp_path / "examples") == read(output).num_rows
    assert read(tmp_path).equals(read(output))


def test_a_day_is_where_its_rows_say(built: tuple[FeatureJob, Path]) -> None:
    _, output = built
    for day in DAYS:
        assert {day_of(t) for t in read(output, day).column("event_time_ms").to_pylist()} == {day}
        mark = json.loads((output / "examples" / f"dt={day}" / "_SUCCESS").read_text())
        next_day = day_of(start_of(day) + MS_PER_DAY)
        of_day = Counter(day_of(e.event_time_ms) for e in LOG)
        assert mark["built_of"].keys() == {day, next_day}
        rows = {d: int(found.partition("-")[0] or 0) for d, found in mark["built_of"].items()}
        assert rows == {day: of_day[day], next_day: of_day[next_day]}


def test_a_merge_makes_its_day_and_later_ones_outdated() -> None:
    def marks(merged: list[UserMerge]) -> list[str]:
        return [day_mark(Labelling(), day, {}, merged) for day in DAYS]

    before, after, other = marks([]), *(marks([UserMerge("a", b, start_of(DAYS[1]))]) for b in "bc")
    assert [old != new for old, new in zip(before, after, strict=True)] == [False, *[True] * (len(DAYS) - 1)]
    assert all(one != two for one, two in zip(after[1:], other[1:], strict=True)), (
        "one forgotten, another new"
    )


def test_a_day_is_outdated_once_one_of_its_users_is_a_suspect() -> None:
    marks = [day_mark(Labelling(), DAYS[0], {}, [], digest(found)) for found in ([], ["a"], ["b"])]
    assert len(set(marks)) == 3
    assert marks[0] == day_mark(Labelling(), DAYS[0], {}, [])


def test_suspects_are_left_out_and_counted(spark: SparkSession, tmp_path: Path) -> None:
    log = Log().honest(share=2)
    honest = list(log.events)
    log.push("i1", 20).robot()
    job = FeatureJob(str(write_lake(tmp_path / "all", log.events)), str(tmp_path / "all"), buckets=3)
    report = build(spark, job)
    assert report.left_out == {
        "clicks_without_impressions": 20,
        "faster_than_people": 1_000,
        "narrowed_impressions": 0,
        "item_days": 1,
        "user_days": 1,
    }
    judgement = json.loads((tmp_path / "all" / "examples" / TRUST).read_text())
    # it was shown to 20 people before they clicked, and to the robot before it clicked 125 times
    weights = {"i1": [1_024 * 145 // 165, 1_024 * 21 // 41]}
    suspects = {day_of(START_MS_OF_LOG): digest(["robot"])}
    mark = (tmp_path / "all" / "sequences" / "_SUCCESS").read_text()
    expected = {"left_out": report.left_out, "item_weights": weights, "suspects": suspects, "log": mark}
    assert judgement == expected
    found = {row["user_id"]: row["items"] for row in sequences(tmp_path / "all").to_pylist()}
    assert found == {
        user: [e.item_id for e in honest if e.user_id == user and e.type in ENGAGEMENT]
        for user in {e.user_id for e in honest if e.type in ENGAGEMENT}
    }
    shown = {e.event_id for e in honest if e.type is EventType.IMPRESSION}
    assert set(read(tmp_path / "all").column("example_id").to_pylist()) == shown


def test_a_day_is_built_again_once_narrowed_lists_pushed_an_item_on_it(
    spark: SparkSession, tmp_path: Path
) -> None:
    log = Log().honest().narrow_before_midnight("i1", 20, 20 * MS_PER_MINUTE)
    shown = [e for e in log.events if e.type is EventType.IMPRESSION]
    job = FeatureJob(str(write_lake(tmp_path, log.events)), str(tmp_path), buckets=3)
    first, second = build(spark, replace(job, trust=False)).days
    assert set(read(tmp_path).column("example_id").to_pylist()) == {e.event_id for e in shown}
    report = build(spark, job)
    assert (report.days, report.skipped) == ((first,), (second,)), "the lists' day, not the clicks'"
    assert report.left_out["narrowed_impressions"] == 20
    honest = {e.event_id for e in shown if e.value is None}
    assert set(read(tmp_path).column("example_id").to_pylist()) == honest


def test_judging_the_log_or_not_is_heard_though_no_day_changes(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = FeatureJob(
        str(write_lake(tmp_path, Log().honest().push("i1", 20).events)), str(tmp_path), buckets=3
    )
    fakes = {f"fake{n}" for n in range(20)}

    def learnt_from() -> set[str]:
        return set(sequences(tmp_path).column("user_id").to_pylist())

    days = build(spark, job).days
    assert not fakes & learnt_from()
    for trust in (False, True):
        report = build(spark, replace(job, trust=trust))
        assert (report.days, report.skipped) == ((), days)
        assert bool(fakes & learnt_from()) is not trust
        judgement = json.loads((tmp_path / "examples" / TRUST).read_text())
        assert ("i1" in judgement["item_weights"]) is trust
    # as if a run without trust had been killed after it wrote what it left out
    for killed in (json.dumps({"log": "another"}), '{"log'):
        (tmp_path / "examples" / TRUST).write_text(killed)
        assert build(spark, job).left_out["clicks_without_impressions"] == 20
        assert json.loads((tmp_path / "examples" / TRUST).read_text())["item_weights"]
    monkeypatch.delattr(features_job, "judged")
    again = build(spark, job)
    assert (again.skipped, again.left_out["clicks_without_impressions"]) == (days, 20), "not judged again"


def test_sequences_and_definitions_are_next_to_them(built: tuple[FeatureJob, Path]) -> None:
    _, output = built
    rows = sequences(output).to_pylist()
    assert {r["user_id"] for r in rows} == {"user-0", "user-3", "user-4"}, "merged users have one"
    assert sum(len(r["items"]) for r in rows) == sum(e.type in ENGAGEMENT for e in LOG)
    assert all(r["times"] == sorted(r["times"]) for r in rows)
    saved = json.loads((output / "examples" / DEFINITIONS).read_text())
    assert differences(saved, FEATURES.describe()) == []


def test_day_by_day_gives_the_same_rows_and_leaves_finished_days_alone(
    spark: SparkSession, built: tuple[FeatureJob, Path], tmp_path: Path
) -> None:
    job, output = built
    early = replace(job, output=str(tmp_path), last_day=DAYS[1], buckets=5)
    assert build(spark, early).days == tuple(DAYS[:2])
    assert sequences(tmp_path).equals(sequences(output)), "a part of the days, but everybody's whole history"
    report = build(spark, replace(early, last_day=""))
    assert report.days == tuple(DAYS[2:])
    assert report.skipped == tuple(DAYS[:2])
    assert read(tmp_path).equals(read(output))


def test_days_are_built_again_when_outcomes_are_attributed_in_another_way(
    spark: SparkSession, built: tuple[FeatureJob, Path], tmp_path: Path
) -> None:
    job, output = built
    shutil.copytree(output, tmp_path, dirs_exist_ok=True)
    kinds = {EventType.CLICK, EventType.PURCHASE, EventType.ADD_TO_CART}
    loose = [e for e in LOG if e.type in kinds and e.request_id is None]
    assert loose, "the log has outcomes that name no request"
    assert build(spark, replace(job, output=str(tmp_path))).skipped == tuple(DAYS)
    by_request = replace(job, output=str(tmp_path), attribution=Attribution.parse("request"))
    report = build(spark, by_request)
    assert report.days == tuple(DAYS)
    assert 0 < report.clicks < Counter(read(output).column("click").to_pylist())[1]
    assert report.clicks == Counter(read(tmp_path).column("click").to_pylist())[1]


def test_a_day_is_built_again_when_an_outcome_of_it_comes_late(spark: SparkSession, tmp_path: Path) -> None:
    """As after an outage: the days after it are in the lake when the outcome comes."""
    lake = write_lake(tmp_path, LOG)
    job = FeatureJob(str(lake), str(tmp_path / "features"), last_day=DAYS[1], buckets=3)
    build(spark, job)
    assert build(spark, job).skipped == tuple(DAYS[:2])
    lists = {(e.user_id, e.event_id) for e in LOG if e.type is EventType.IMPRESSION and e.request_id}
    examples = read(tmp_path / "features", DAYS[0]).to_pylist()
    shown = next(r for r in examples if (r["user_id"], r["example_id"]) in lists and not r["conversion"])
    at = max(start_of(DAYS[1]), shown["event_time_ms"] + 1)
    bought = Event("late", EventType.PURCHASE, shown["user_id"], shown["item_id"], at, shown["request_id"])
    write_parquet(lake / EVENTS / f"dt={DAYS[1]}" / "late.parquet", events_table([bought]))
    assert build(spark, job).days == tuple(DAYS[:2])
    (found,) = [
        r
        for r in read(tmp_path / "features", DAYS[0]).to_pylist()
        if (r["user_id"], r["example_id"]) == (shown["user_id"], shown["example_id"])
    ]
    assert found["conversion"] == 1


def test_a_day_is_built_again_when_other_events_are_in_the_place_of_as_many(
    spark: SparkSession, tmp_path: Path
) -> None:
    """As after another import of the same rows, with a mended mapping; in another order they are the same."""
    lake, day = write_lake(tmp_path, LOG), DAYS[-1]
    job = FeatureJob(str(lake), str(tmp_path / "features"), first_day=day, buckets=3)
    build(spark, job)

    def write_again(events: list[Event]) -> None:
        folder = lake / EVENTS / f"dt={day}"
        for old in folder.glob("*.parquet"):
            old.unlink()
        write_parquet(folder / "again.parquet", events_table(events))

    *others, last = [e for e in LOG if day_of(e.event_time_ms) == day]
    write_again([last, *others])
    assert build(spark, job).skipped == (day,)
    for changed in (replace(last, value=7.5), replace(last, context={"creator": "another"})):
        write_again([*others, changed])
        assert build(spark, job).days == (day,)


def test_where_only_hadoop_can_write_the_rows_are_the_same(
    spark: SparkSession, built: tuple[FeatureJob, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, output = built
    for module in (output_folder, write):
        monkeypatch.setattr(module, "local_path", lambda spark, folder: None)
    elsewhere = replace(job, output=str(tmp_path))
    report = build(spark, elsewhere)
    assert (report.examples, report.clicks) == (
        read(output).num_rows,
        pc.sum(read(output).column("click")).as_py(),
    )
    assert read(tmp_path).equals(read(output))
    assert sequences(tmp_path).equals(sequences(output))
    assert build(spark, elsewhere).skipped == tuple(DAYS)


def test_a_failed_run_leaves_what_was_there(
    spark: SparkSession, built: tuple[FeatureJob, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, output = built
    before = read(output)

    def broken(*tables: pa.Table) -> pa.Table:
        raise RuntimeError("a disk is full")

    monkeypatch.setattr(features_job, "user_side", broken)
    with pytest.raises(Exception, match="a disk is full"):
        build(spark, replace(job, rebuild=True))
    assert read(output).equals(before)
    assert not list((output / "examples").glob("_building*"))


def test_forgotten_users_are_left_out_at_once(
    spark: SparkSession, built: tuple[FeatureJob, Path], tmp_path: Path
) -> None:
    job, _ = built
    gone = USERS[0].user_id
    job = replace(
        job, output=str(tmp_path), forgotten={user_digest(gone): LOG[0].event_time_ms + 365 * MS_PER_DAY}
    )
    build(spark, job)
    rows = read(tmp_path).to_pylist()
    assert {r["user_id"] for r in rows} == {u.user_id for u in USERS[1:]}
    others = [e for e in LOG if e.user_id != gone]
    for row in RNG.sample(rows, 10):  # nor do they count in what items show
        user = next(u for u in USERS if u.user_id == row["user_id"])
        item, now = next(i for i in ITEMS if i.item_id == row["item_id"]), row["event_time_ms"]
        _, *merged = MERGES.members(user.user_id, now)  # nobody has the forgotten one
        expected = reference_features(
            FEATURES, ReferenceSource(others, user, item, now, {"tab": "1"}, merged)
        )
        np.testing.assert_array_equal(np.frombuffer(row["features"], "<f4"), expected)


def test_backfill_loads_the_states_of_the_lake(spark: SparkSession, built: tuple[FeatureJob, Path]) -> None:
    store = MemoryFeatureStore(FEATURES, StoreConfig(2))
    covered = [Covered(Topic.EVENTS, p, "log", 1000 + p) for p in range(2)]
    loaded = load_state(spark, built[0], covered, lambda f: _opened(store, f), 2, MS_PER_DAY)
    assert (loaded.users, loaded.items, loaded.present) == (len(USERS), len(ITEMS), 0)
    since = dedupe_since(max(e.event_time_ms for e in LOG), MS_PER_DAY)
    assert loaded.ids == sum(e.event_time_ms >= since for e in LOG)
    users, items = folded(LOG)
    assert {u.user_id: store.user(u.user_id) for u in USERS} == users
    assert dict(store.all_items()) == items
    for place in covered:
        stored = store.checkpoint(place.topic, place.partition)
        assert stored is not None
        assert (stored.offset, stored.log_id) == (place.offset, "log")
        theirs = [e.event_time_ms for e in LOG if partition_of(e.user_id, 2) == place.partition]
        assert stored.watermark_ms == max(theirs)


def _opened(store: MemoryFeatureStore, features: StateDefinition) -> MemoryFeatureStore:
    store._features = features
    return store


def test_days_without_examples_are_built_and_a_lake_may_be_empty(spark: SparkSession, tmp_path: Path) -> None:
    """A day of clicks on what was shown long before, one with a file without rows, one without a file."""
    later = [
        replace(e, event_id=f"{e.event_id}+", event_time_ms=e.event_time_ms + 9 * MS_PER_DAY)
        for e in LOG[:20]
        if e.type is EventType.CLICK
    ]
    empty = write_lake(tmp_path / "empty", [])
    lake = write_lake(tmp_path, LOG[:20] + later)
    for events in (lake / EVENTS, empty / EVENTS):
        write_parquet(events / "dt=2031-01-01" / "nothing.parquet", events_table([]))
        (events / "dt=2031-01-02").mkdir()
    first = min(day_of(e.event_time_ms) for e in later)
    job = FeatureJob(str(lake), str(tmp_path / "features"), first_day=first, buckets=1)
    report = build(spark, job)
    assert {"2031-01-01", "2031-01-02", first} <= set(report.days)
    assert (report.examples, build(spark, job).skipped) == (0, report.days)

    for folder in (empty, tmp_path / "none"):
        job = FeatureJob(str(folder), str(tmp_path / "nothing"), buckets=1)
        store = MemoryFeatureStore(FEATURES, StoreConfig(2))
        covered = [Covered(Topic.EVENTS, 0, "log", 7)]
        loaded = load_state(spark, job, covered, partial(_opened, store), 2, MS_PER_DAY)
        assert (loaded.users, loaded.items, loaded.ids) == (0, 0, 0)
        stored = store.checkpoint(Topic.EVENTS, 0)
        assert stored
        assert stored.offset == 7
        with pytest.raises(InvalidData, match="no events from the start"):
            build(spark, job)


def test_days_without_events_are_an_error(spark: SparkSession, built: tuple[FeatureJob, Path]) -> None:
    with pytest.raises(InvalidData, match="no events from 2031"):
        build(spark, replace(built[0], first_day="2031-01-01"))
