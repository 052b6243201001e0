"""What a first bundle is trained on; what a night refuses."""

from pathlib import Path
from typing import cast

import pytest

from infra.cli.training_plans import CompressedTraining
from infra.cli.training_runs import newer_than_ms, train_nightly
from recsys.contracts.errors import InvalidConfig
from recsys.contracts.events import Event
from recsys.contracts.types import MS_PER_DAY, EventType
from recsys.lake.lake import EVENTS, day_writer, events_table, start_of
from recsys.settings import Settings

FIRST = start_of("2026-03-01")


@pytest.mark.parametrize(
    ("events", "days"), [(1, 1), (4, 1), (5, 2), (7, 2), (8, 3), (9, 3), (10, 3), (1_000, 3)]
)
def test_only_the_newest_days_are_predicted(tmp_path: Path, events: int, days: int) -> None:
    """Of three days with 2, 3 and 4 events; all of them: no limit."""
    times = [FIRST + day * MS_PER_DAY + n for day, count in enumerate((2, 3, 4)) for n in range(count)]
    log = [Event(f"e{n}", EventType.CLICK, "u", "i", time) for n, time in enumerate(times)]
    with day_writer(tmp_path, EVENTS, "test") as writer:
        writer.write(events_table(log))
    found = newer_than_ms(tmp_path, events)
    assert found == (0 if days == 3 else FIRST + (3 - days) * MS_PER_DAY - 1)


@pytest.mark.parametrize("model", ["two_tower", "ranker"])
def test_a_night_without_noise_does_not_continue_a_private_model(model: str, tmp_path: Path) -> None:
    work = tmp_path / "work" / model
    work.mkdir(parents=True)
    (work / "summary.json").write_text('{"privacy": {"epsilon": 8.0}}')
    settings = Settings(home=tmp_path)
    plan = cast(CompressedTraining, None)  # it is not read
    for full in (False, True):
        with pytest.raises(InvalidConfig, match="recsys train private"):
            train_nightly(settings, plan, full, full_every=7, proposing=False)
