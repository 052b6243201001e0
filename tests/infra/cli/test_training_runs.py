"""What a first bundle is trained on."""

from pathlib import Path

import pytest

from infra.cli.training_runs import newer_than_ms
from recsys.contracts.events import Event
from recsys.contracts.types import MS_PER_DAY, EventType
from recsys.lake.lake import EVENTS, day_writer, events_table, start_of

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
