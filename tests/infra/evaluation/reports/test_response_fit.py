"""`recsys simulate fit` on a small log in KuaiRand's columns."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.evaluation.reports.response_fit import ResponseFit, read_log, run
from recsys.contracts.errors import InvalidData


def write_log(folder: Path, days: int, rows: int = 6_000) -> None:
    rng = np.random.default_rng(0)
    user, item, tab = rng.integers(0, 100, rows), rng.integers(0, 40, rows), rng.integers(0, 2, rows)
    logit = rng.normal(0, 1, 100)[user] + rng.normal(0, 1, 40)[item] + tab - 0.5
    click = rng.random(rows) < 1 / (1 + np.exp(-logit))
    columns = {
        "user_id": user,
        "video_id": item + 1_000,
        "tab": tab,
        "date": 20220501 + np.sort(rng.integers(0, days, rows)),
        "time_ms": np.arange(rows),
        "duration_ms": rng.integers(5_000, 60_000, rows),
        "is_click": click.astype(np.int64),
        "long_view": (click & (rng.random(rows) < 0.5)).astype(np.int64),
        "play_time_ms": (rng.lognormal(9, 1, rows) * click).astype(np.int64),
    }
    pq.write_table(pa.table(columns), folder / "log.parquet")
    pq.write_table(pa.table({"other": [1]}), folder / "other.parquet")


def test_the_last_days_are_held_out_and_repeated(tmp_path: Path) -> None:
    write_log(tmp_path, days=8, rows=24_000)  # of a small log each item's drawn effect moves the mean
    result = run(ResponseFit(tmp_path))
    figures = result.figures
    assert (figures["days_fitted"], figures["days_held_out"]) == (6, 2)
    assert figures["impressions_fitted"] + figures["impressions_held_out"] == 24_000
    assert result.met, figures
    assert figures["click_gauc"] > 0.6
    assert run(ResponseFit(tmp_path)).figures == figures


def test_repeats_count_once(tmp_path: Path) -> None:
    write_log(tmp_path, days=3, rows=100)
    pq.write_table(pq.read_table(tmp_path / "log.parquet"), tmp_path / "again.parquet")
    assert len(read_log(tmp_path).shown) == 100


def test_no_log_and_a_single_day_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no Parquet file"):
        run(ResponseFit(tmp_path))
    write_log(tmp_path, days=1, rows=100)
    with pytest.raises(InvalidData, match="one day only"):
        run(ResponseFit(tmp_path))
