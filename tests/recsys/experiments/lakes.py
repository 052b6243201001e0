"""Small lakes with an experiment in them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recsys.contracts.events import Event, derived_id
from recsys.contracts.impressions import Impression, ShownItem, impression_events
from recsys.contracts.types import MS_PER_DAY, EventType
from recsys.lake.lake import EVENTS, IMPRESSIONS, day_writer, events_table, impressions_table

START_MS = 1_750_032_000_000  # a midnight, UTC


@dataclass
class LakeBuilder:
    """Collects lists and what was done with them; `write` makes the lake."""

    impressions: list[Impression] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def show(self, user: str, time_ms: int, items: Sequence[str], arm: str = "", category: str = "") -> str:
        """A list; items are named `name/category`, or all are of one category. Returns its request id."""
        request_id = f"r{len(self.impressions)}"
        shown = [
            ShownItem(item, n, 1.0, categories=(category or item.split("/")[-1],))
            for n, item in enumerate(items)
        ]
        features = np.zeros((len(items), 1), np.float32)
        impression = Impression(request_id, user, time_ms, "b", "f", shown, features, arm)
        self.impressions.append(impression)
        self.events += impression_events(impression)
        return request_id

    def act(
        self,
        kind: EventType,
        user: str,
        time_ms: int,
        item: str,
        request_id: str | None,
        value: float | None = None,
    ) -> None:
        event_id = derived_id(time_ms, kind, user, item, request_id, len(self.events))
        self.events.append(Event(event_id, kind, user, item, time_ms, request_id, value=value))

    def write(self, lake: Path) -> None:
        """Lists without an arm go into the events only, as those of an imported past."""
        with day_writer(lake, EVENTS, "test") as writer:
            writer.write(events_table(self.events))
        with day_writer(lake, IMPRESSIONS, "test") as writer:
            writer.write(impressions_table([i for i in self.impressions if i.arm]))


def day(number: int, hour: float = 12.0) -> int:
    return START_MS + number * MS_PER_DAY + int(hour * 3_600_000)
