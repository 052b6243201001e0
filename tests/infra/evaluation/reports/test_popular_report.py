"""Popular items with noise: close to the truth where users are many, bounded for each user, paid for."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.evaluation.reports.popular import PopularReport, engaged_items, report
from recsys.contracts.errors import BudgetSpent, InvalidConfig, InvalidData
from recsys.contracts.events import Event
from recsys.contracts.types import MS_PER_DAY, EventType
from recsys.lake.lake import EVENTS, day_writer, days, events_table, start_of
from tests.training.ranker.rank_fixture import ITEM_SCHEMA
from training.privacy.ledger import Ledger

FIRST = start_of("2026-03-01")


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """300 users like `a`, 100 of them `b` as well, on two days; one robot clicks on `c` a thousand times."""
    log = [Event(f"a{u}", EventType.LIKE, f"u{u}", "a", FIRST + u) for u in range(300)]
    log += [Event(f"b{u}", EventType.CLICK, f"u{u}", "b", FIRST + MS_PER_DAY + u) for u in range(100)]
    log += [Event(f"c{n}", EventType.CLICK, "robot", "c", FIRST + 1_000 + n) for n in range(1_000)]
    log += [Event(f"d{u}", EventType.IMPRESSION, f"u{u}", "d", FIRST + u) for u in range(300)]
    folder = tmp_path / "lake"
    with day_writer(folder, EVENTS, "test") as writer:
        writer.write(events_table(sorted(log, key=lambda event: event.event_time_ms)))
    rows = [
        {"item_id": i, "title": i, "categories": [], "creator": "", "created_ms": 0, "attributes": []}
        for i in "abcd"
    ]
    (folder / "items").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, ITEM_SCHEMA), folder / "items" / "items.parquet")
    return folder


def test_the_table_is_near_the_truth_and_paid_for(lake: Path, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "privacy.json", 1.2, 1e-6)
    found = report(PopularReport(lake, epsilon=1.0, most=2, top=2), ledger)
    assert list(found.figures) == ["a", "b"]
    assert abs(found.figures["a"] - 300) < 60  # eight standard deviations
    assert 0.95 < ledger.spent() <= 1.0
    with pytest.raises(BudgetSpent, match="popular items would bring"):
        report(PopularReport(lake, epsilon=1.0), ledger)


def test_a_delta_that_would_allow_publishing_a_user_is_refused(lake: Path, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "privacy.json", 1.2, 0.005)
    with pytest.raises(InvalidConfig, match="RECSYS_PRIVACY_DELTA below"):
        report(PopularReport(lake, epsilon=1.0), ledger)
    assert not ledger.entries()


def test_the_best_of_many_items_are_within_the_bound_that_is_said(lake: Path, tmp_path: Path) -> None:
    """The noise of the best is the largest of all, not that of one item."""
    path = lake / "items" / "items.parquet"
    rows = [
        {**row, "item_id": f"{row['item_id']}{n}"}
        for n in range(500)
        for row in pq.read_table(path).to_pylist()
    ]
    pq.write_table(pa.Table.from_pylist(rows, ITEM_SCHEMA), path)  # nobody engaged with any of them
    found = report(PopularReport(lake, epsilon=1.0, most=2), Ledger(tmp_path / "privacy.json", 1.2, 1e-6))
    bound = int(re.findall(r"within ± (\d+)", found.notes[1])[0])
    assert 0 < max(found.figures.values()) <= bound + 20


def test_a_users_newest_engagements_come_first(lake: Path) -> None:
    found = engaged_items(lake, days(lake))
    assert found["u0"] == ["b", "a"]
    assert found["u200"] == ["a"], "being shown an item is no engagement"


def test_an_empty_lake_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="recsys data import"):
        report(PopularReport(tmp_path, 1.0), Ledger(tmp_path / "privacy.json", 1.0, 1e-6))
    assert not (tmp_path / "privacy.json").exists()
