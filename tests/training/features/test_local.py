"""The examples without Spark: every one of a lake, of its newest days; `test_job` compares them with the job's."""

from collections import Counter
from pathlib import Path

import pytest

from recsys.contracts.errors import InvalidData
from recsys.lake.lake import day_of
from tests.training.features.test_job import DAYS, ITEMS, LOG, MERGES, USERS, read, write_lake
from tests.training.features.test_kernel import assert_equal_brute_force
from training.features import local
from training.features.local import build_examples
from training.features.packing import unpacked


def test_examples_of_a_lake_equal_brute_force(tmp_path: Path) -> None:
    written = build_examples(write_lake(tmp_path, LOG), tmp_path / "examples")
    rows = read(tmp_path)
    assert rows.num_rows == written
    assert_equal_brute_force(unpacked(rows), USERS, ITEMS, LOG, MERGES)


def test_the_newest_days_have_the_same_rows(tmp_path: Path) -> None:
    lake = write_lake(tmp_path, LOG)
    build_examples(lake, tmp_path / "all" / "examples")
    of_day = Counter(day_of(e.event_time_ms) for e in LOG)
    build_examples(lake, tmp_path / "new" / "examples", newest=of_day[DAYS[-1]] + 1)
    for day in DAYS[-2:]:
        assert read(tmp_path / "new", day).equals(read(tmp_path / "all", day))
    assert read(tmp_path / "new").num_rows < read(tmp_path / "all").num_rows


def test_some_users_at_a_time_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = write_lake(tmp_path, LOG)
    build_examples(lake, tmp_path / "whole" / "examples")
    monkeypatch.setattr(local, "_PART_EVENTS", 60)
    build_examples(lake, tmp_path / "parts" / "examples")
    assert len(list((tmp_path / "parts" / "examples" / f"dt={DAYS[1]}").glob("*.parquet"))) > 1
    assert read(tmp_path / "parts").equals(read(tmp_path / "whole"))


def test_an_empty_lake_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no events"):
        build_examples(write_lake(tmp_path, []), tmp_path / "examples")
