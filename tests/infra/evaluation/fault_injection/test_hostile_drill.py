"""The drill of attacks: what does not hold is seen, whatever way it breaks."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.cli.main import app
from infra.evaluation.fault_injection import hostile
from infra.evaluation.fault_injection.hostile.attacks import Attack, Broken, report, run_all


def _holds(folder: Path) -> str:
    (folder / "spool").write_text("x")
    return "nothing lost"


def _breaks(folder: Path) -> str:
    raise Broken("3 events lost")


def _crashes(folder: Path) -> str:
    return str(1 / len(list(folder.iterdir())))


HOLDS, BREAKS, CRASHES = (Attack("streams", f.__name__, "it hung", f) for f in (_holds, _breaks, _crashes))


def test_every_way_to_break_is_reported_and_the_rest_still_runs() -> None:
    content = report(list(run_all([BREAKS, CRASHES, HOLDS])))
    assert content["figures"] == {"attacks": 3, "broken": 2}
    assert not content["met"]
    rows = [(row["now"], row["holds"]) for row in content["attacks"]]
    assert rows == [
        ("3 events lost", False),
        ("ZeroDivisionError: division by zero", False),  # each attack starts in an empty folder
        ("nothing lost", True),
    ]


@pytest.mark.parametrize(("attacks", "code"), [((HOLDS,), 0), ((HOLDS, BREAKS), 1)])
def test_the_command_fails_when_a_row_does_not_hold(
    attacks: tuple[Attack, ...], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostile, "ALL", attacks)
    assert CliRunner().invoke(app, ["drill", "hostile", "--json"]).exit_code == code
    assert CliRunner().invoke(app, ["drill", "hostile"]).exit_code == code


def test_an_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile, "ALL", (HOLDS,))
    assert CliRunner().invoke(app, ["drill", "hostile", "--only", "snappi"]).exit_code == 2
