"""The world's time: runs at its speed, stops at its end, is followed when it changes."""

from pathlib import Path

import pytest

from recsys.contracts.errors import InvalidConfig
from recsys.simulation.clock import WorldClock, clock_of, read_clock, write_clock

CLOCK = WorldClock(wall_ms=1_000_000, world_ms=500, speed=100.0, until_ms=5_000)


def test_a_clock_waits_for_its_start_runs_and_stops() -> None:
    assert [CLOCK.at(wall) for wall in (999_000, 1_000_000, 1_000_010, 2_000_000)] == [500, 500, 1_500, 5_000]


def test_it_is_what_was_written(tmp_path: Path) -> None:
    write_clock(tmp_path / "clock.json", CLOCK)
    assert read_clock(tmp_path / "clock.json") == CLOCK
    assert clock_of(tmp_path / "clock.json")() == 5_000


def test_a_missing_or_broken_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="recsys simulate history"):
        clock_of(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InvalidConfig, match="not a world's clock"):
        read_clock(tmp_path / "broken.json")
