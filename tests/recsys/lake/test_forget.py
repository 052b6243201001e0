"""What imports keep of broken rows names nobody who was forgotten, and damage there stops no forgetting."""

import json
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.lake.commit import rewriting
from recsys.lake.forget import forget_in_lake, forgotten_users, user_digest

REPORT = {"source": "shop", "events": 3, "first_broken": [{"cell": "ann"}, {"cell": "anna"}]}


def test_every_report_and_rejected_row_that_names_the_user_is_cleaned(tmp_path: Path) -> None:
    reports = tmp_path / "import-report.json", tmp_path / "imports" / "shop.json"
    for folder in ("imports", "rejected"):
        (tmp_path / folder).mkdir()
    for report in reports:
        report.write_text(json.dumps(REPORT))
    rejected = tmp_path / "rejected" / "shop.parquet"
    pq.write_table(pa.table({"row": ["ann,i1", "anna,i2"]}), rejected)
    forget_in_lake(tmp_path, "ann", 5)
    for report in reports:
        assert json.loads(report.read_text()) == REPORT | {"first_broken": [{"cell": "anna"}]}
    assert pq.read_table(rejected).column("row").to_pylist() == ["anna,i2"]


@pytest.mark.parametrize("name", ["import-report.json", "imports/shop.json", "rejected/shop.parquet"])
def test_a_damaged_file_that_may_name_the_user_is_removed(name: str, tmp_path: Path) -> None:
    damaged = tmp_path / name
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes(b"{ann")
    forget_in_lake(tmp_path, "ann", 5)
    assert not damaged.exists()
    assert forgotten_users(tmp_path) == {user_digest("ann"): 5}


def test_a_mark_waits_for_who_rewrites_the_lake(tmp_path: Path) -> None:
    forgetting = threading.Thread(target=forget_in_lake, args=(tmp_path, "ann", 5))
    with rewriting(tmp_path):
        forgetting.start()
        forgetting.join(0.5)  # without the lock it would be through by now
        assert forgotten_users(tmp_path) == {}
    forgetting.join()
    assert forgotten_users(tmp_path) == {user_digest("ann"): 5}
