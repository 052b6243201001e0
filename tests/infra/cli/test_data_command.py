"""`recsys data` from the command line: what it prints, what it writes, how it fails."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.cli.commands.data import app
from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.lake.lake import days
from tests.recsys.datasets import samples

runner = CliRunner()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path / "var"))
    return tmp_path / "var"


def test_import_prints_one_json_object_and_writes_the_lake(home: Path, tmp_path: Path) -> None:
    done = runner.invoke(app, ["import", str(samples.kuairand_csv(tmp_path / "k")), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["events_by_type"] == {"impression": 3, "click": 2, "dwell": 3, "like": 1, "purchase": 1}
    assert days(home / "lake") == ["2022-04-25"]
    assert json.loads((home / "lake" / "import-report.json").read_text()) == report


def test_shift_to_now_ends_the_log_now(home: Path, tmp_path: Path) -> None:
    done = runner.invoke(
        app, ["import", str(samples.movielens_100k(tmp_path / "m")), "--shift-to-now", "--json"]
    )
    assert json.loads(done.stdout)["shift_weeks"] > 1_400


def test_validate_shows_tables_and_writes_nothing(home: Path, tmp_path: Path) -> None:
    folder = samples.table(tmp_path / "t", ["a,x,875000000000,1,,", "a,x,soon,1,,"])
    done = runner.invoke(app, ["validate", str(folder), "--mapping", str(folder / "mapping.yaml")])
    assert done.exit_code == 0, done.output
    for part in ("data set t", "1997-09-23", "is not a time in milliseconds", "'soon'"):
        assert part in done.stdout
    assert not home.exists()


def test_strict_fails_with_the_first_broken_rows(home: Path, tmp_path: Path) -> None:
    folder = samples.table(tmp_path / "t", ["a,x,soon,1,,"])
    done = runner.invoke(app, ["import", str(folder), "--strict"])
    assert isinstance(done.exception, InvalidData)  # `recsys` prints it as one sentence
    assert "row 2, column t" in str(done.exception)
    assert days(home / "lake") == []


def test_a_guessed_mapping_is_shown_written_once_and_read(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    rows = [f"u{n % 3},i{n % 5},{1_700_000_000 + n},{'buy' if n % 4 == 0 else 'peek'}" for n in range(12)]
    (folder / "log.csv").write_text("\n".join(["user_id,item_id,timestamp,action", *rows]))
    mapping = folder / "guessed.yaml"
    done = runner.invoke(app, ["guess", str(folder), "--write", str(mapping)])
    assert done.exit_code == 0, done.output
    assert "peek" in mapping.read_text(), "what is left out is a comment"
    assert mapping.read_text() in done.stdout
    again = runner.invoke(app, ["guess", str(folder), "--write", str(mapping)])
    assert isinstance(again.exception, InvalidConfig)
    read = runner.invoke(app, ["import", str(folder), "--mapping", str(mapping), "--json"])
    assert read.exit_code == 0, read.exception
    assert json.loads(read.stdout)["events_by_type"] == {"purchase": 3}
    found = json.loads(runner.invoke(app, ["guess", str(folder), "--json"]).stdout)
    assert found["mapping"]["events"]["user"] == "user_id"
    assert len(found["check"]) == 1
