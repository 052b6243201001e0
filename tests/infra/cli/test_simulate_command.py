"""`recsys simulate history`: what it writes, and that it refuses to replace a catalogue."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.cli.commands.simulate import app
from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import MS_PER_DAY
from recsys.lake.lake import days
from recsys.simulation.clock import CLOCK_FILE, read_clock
from recsys.simulation.world import read_world

SMALL = ["history", "--users", "20", "--items", "30", "--days", "2", "--ahead", "3"]


def test_the_history_ends_where_the_clock_stands_and_a_second_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path))
    done = CliRunner().invoke(app, SMALL)
    assert done.exit_code == 0, done.output
    world, clock = read_world(tmp_path / "world.json"), read_clock(tmp_path / CLOCK_FILE)
    assert clock.at(clock.wall_ms + MS_PER_DAY) == world.start_ms + 2 * MS_PER_DAY, "it stands"
    assert clock.wall_ms - clock.world_ms >= 3 * MS_PER_DAY, "three days can be played before now"
    assert 2 <= len(days(tmp_path / "lake")) <= 3
    again = CliRunner().invoke(app, SMALL)
    assert isinstance(again.exception, InvalidConfig)
    assert "another RECSYS_HOME" in str(again.exception)
