"""The Spark job on what a push has left in an object store: the snapshot counts, not what lies next to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

pytest.importorskip("boto3")

from recsys.contracts.errors import InvalidData
from recsys.lake.forget import forgotten_users, mark_forgotten
from recsys.lake.mirror import push
from recsys.lake.object_store import ObjectStore
from recsys.spark_session import spark_session
from tests.training.features.test_job import LOG, USERS, read, sequences, write_lake
from training.features import lake_tables, output_folder, write
from training.features.feature_job import FeatureJob
from training.features.job import build

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    session = spark_session("local[1]", "1g", [("spark.sql.shuffle.partitions", "2")])
    yield session
    session.stop()


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    lake = write_lake(tmp_path, LOG)
    mark_forgotten(lake, USERS[0].user_id, LOG[0].event_time_ms + (1 << 40))
    return lake


@pytest.fixture
def pushed(lake: Path, bucket: str, tmp_path: Path) -> Path:
    """A copy of the bucket as a folder, for there is no Hadoop for S3 in a usual run (`test_s3a.py` has one)."""
    store, folder = ObjectStore(f"s3://{bucket}"), tmp_path / "bucket"
    push(lake, store)
    for name in store.sizes():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        assert store.download(name, folder / name)
    for table in ("items", "users", "merges", "events"):  # as a killed push leaves them
        for path in [*(folder / table).rglob("*.1-*.parquet")]:
            path.with_name(path.name.replace(".1-", ".2-")).write_bytes(path.read_bytes())
    (folder / "events" / "dt=2026-09-09").mkdir()
    (folder / "events" / "dt=2026-09-09" / "a.2-0123456789abcdef.parquet").write_text("half a file")
    return folder


@pytest.mark.parametrize("only_hadoop", [False, True])
def test_examples_are_those_of_the_lake_that_was_pushed(
    spark: SparkSession,
    lake: Path,
    pushed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    only_hadoop: bool,
) -> None:
    local = FeatureJob(str(lake), str(tmp_path / "local"), buckets=3, forgotten=forgotten_users(lake))
    expected = build(spark, local)
    if only_hadoop:
        for module in (output_folder, write):
            monkeypatch.setattr(module, "local_path", lambda spark, folder: None)
    report = build(spark, FeatureJob(str(pushed), str(tmp_path / "there"), buckets=3))
    assert (report.days, report.events, report.examples) == (
        expected.days,
        expected.events,
        expected.examples,
    )
    assert read(tmp_path / "there").equals(read(tmp_path / "local"))
    assert sequences(tmp_path / "there").equals(sequences(tmp_path / "local"))
    assert USERS[0].user_id not in read(tmp_path / "there").column("user_id").to_pylist()


def test_a_file_that_is_gone_and_a_damaged_mark_are_errors(
    spark: SparkSession, pushed: Path, tmp_path: Path
) -> None:
    (mark,) = (pushed / "forget").glob("*.json")
    content = mark.read_text()
    job = FeatureJob(str(pushed), str(tmp_path / "there"), buckets=3)
    for damage in ("{", "{}", ""):
        mark.write_text(damage)
        (mark.parent / f".{mark.name}.crc").unlink(missing_ok=True)
        with pytest.raises(InvalidData, match="a mark of a forgotten user is damaged"):
            build(spark, job)
    mark.unlink()
    with pytest.raises(InvalidData, match="was pushed to while it was read"):
        build(spark, job)
    mark.write_text(content)
    next((pushed / "items").glob("items.1-*")).unlink()
    with pytest.raises(InvalidData, match="was pushed to while it was read"):
        build(spark, job)
    assert lake_tables.lake_tables(spark, str(pushed)).forgotten(spark)
