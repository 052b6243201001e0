"""What was spent stays spent: over trainings, a refusal, a kill, two processes."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recsys.contracts.errors import BudgetSpent, InvalidData
from training.privacy.accounting import Spend, epsilon_of
from training.privacy.ledger import Ledger

NIGHT = [Spend(1.0, 0.01, 200), Spend(10.0)]


def ledger(folder: Path, epsilon: float = 2.0) -> Ledger:
    return Ledger(folder / "privacy.json", epsilon, 1e-6, clock=lambda: 1.5)


def test_nights_add_up_until_the_next_is_refused(tmp_path: Path) -> None:
    totals: list[float] = []
    with pytest.raises(BudgetSpent, match=r"RECSYS_PRIVACY_EPSILON") as refusal:
        while len(totals) < 100:
            totals += [ledger(tmp_path).spend("ranker", NIGHT)]
    assert 2 <= len(totals) < 100
    assert totals == sorted(totals)
    assert totals[-1] == pytest.approx(epsilon_of(NIGHT * len(totals), 1e-6)) == ledger(tmp_path).spent()
    assert f"{len(totals)} entries" in str(refusal.value)
    entries = ledger(tmp_path).entries()
    assert len(entries) == len(totals), "what was refused is not written"
    assert (entries[0].what, entries[0].time_ms, list(entries[0].spends)) == ("ranker", 1500, NIGHT)


def test_a_larger_budget_admits_the_next(tmp_path: Path) -> None:
    ledger(tmp_path, 2.0).spend("ranker", NIGHT)
    assert ledger(tmp_path, 50.0).spend("ranker", [Spend(0.8)]) > 2.0


def test_a_kill_between_write_and_rename_leaves_the_ledger_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger(tmp_path).spend("first", NIGHT)
    before = (tmp_path / "privacy.json").read_bytes()
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(Path, "rename", lambda *_: os._exit(9))
        ledger(tmp_path).spend("second", NIGHT)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    assert (tmp_path / "privacy.json").read_bytes() == before
    ledger(tmp_path).spend("third", NIGHT)  # its lock ended with the process
    assert [entry.what for entry in ledger(tmp_path).entries()] == ["first", "third"]


def test_no_entry_is_lost_where_several_are_written_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: ledger(tmp_path, 100.0).spend(f"{n}", [Spend(50.0)]), range(24)))
    assert {entry.what for entry in ledger(tmp_path).entries()} == {f"{n}" for n in range(24)}


@pytest.mark.parametrize("content", ["", "{}]", '{"entries": [{"what": 1}]}', '{"entries": [], "spent": 0}'])
def test_a_damaged_ledger_is_refused_and_never_empty(tmp_path: Path, content: str) -> None:
    (tmp_path / "privacy.json").write_text(content)
    with pytest.raises(InvalidData, match=r"privacy\.json"):
        ledger(tmp_path).spend("ranker", NIGHT)
    assert (tmp_path / "privacy.json").read_text() == content
