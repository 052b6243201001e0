"""Lists of a bundle for simulated visitors, and what these do with them: the pool that the canaries draw from.

Every bundle answers the same visitors, who respond as the world says. The same request path as the API's, in this
process; nothing is logged as shown. Times are drawn, the same for each bundle: a busy machine is not what is tested.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.contracts.request import Query
from recsys.contracts.state import EntityState
from recsys.contracts.types import MS_PER_DAY, Topic
from recsys.features.definitions import FEATURES
from recsys.lake.lake import read_events
from recsys.native import core
from recsys.pipeline.hydrators import UserHydrator
from recsys.simulation.actions import row_of
from recsys.simulation.behavior import Behavior, Visitor
from recsys.simulation.world import World
from recsys.store.base import Batch
from recsys.store.memory import MemoryFeatureStore
from serving.engine.artifacts import LoadOptions
from serving.engine.feature_source import ItemFeatures
from serving.engine.pipeline_builder import PipelineConfig
from serving.engine.runtime import USER_FEATURES, build_runtime

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
K = 10
_LISTS = 3  # of a visit
_RESPONSES = 16  # to one list
_MS, _SPREAD = 6.0, 0.3  # of a request: median, and of its logarithm
_CHUNK = 10_000  # events that the store takes at once


@dataclass(frozen=True)
class Lists:
    """n lists, ordered by visitor. `items`: (n, K) rows of the world, -1 for a place that was left empty; `clicks`,
    `purchases`: (n,) as expected from the world's responses to the list."""

    visitor: Ints
    items: Ints
    clicks: Floats
    purchases: Floats
    ms: Floats
    failed: int = 0

    @property
    def visitors(self) -> int:
        return int(self.visitor.max()) + 1

    @property
    def lengths(self) -> Ints:
        return np.asarray((self.items >= 0).sum(axis=1))

    def distinct_items(self, n: int) -> int:
        """Of the first n lists."""
        items = self.items[:n]
        return len(np.unique(items[items >= 0]))

    @property
    def clicks_per_list(self) -> float:
        return float(self.clicks.mean())

    @property
    def purchases_per_click(self) -> float:
        return float(self.purchases.sum() / self.clicks.sum())

    def slower(self, factor: float) -> Self:
        """The same lists, which took longer."""
        return type(self)(
            self.visitor, self.items, self.clicks, self.purchases, factor * self.ms, self.failed
        )


class Player:
    """Plays visits of the day after the log."""

    def __init__(self, world: World, lake: Path, now_ms: int, visitors: int) -> None:
        """`now_ms`: the midnight after the log in `lake`."""
        self._world = world
        self._store = MemoryFeatureStore(FEATURES)
        epoch = self._store.claim(Topic.EVENTS, 0, "simulated").epoch
        events = list(read_events(lake))
        for first in range(0, len(events), _CHUNK):
            part = events[first : first + _CHUNK]
            last, newest_ms = first + len(part), max(event.event_time_ms for event in part)
            numbers = range(first, last)
            self._store.apply(Batch(Topic.EVENTS, 0, epoch, first, last, newest_ms, numbers, part))
        shown = sorted({event.item_id for event in events})
        self._states: Sequence[tuple[str, EntityState]] = list(
            zip(shown, self._store.items(shown), strict=True)
        )
        day = (now_ms - world.config.start_ms) // MS_PER_DAY
        users, times = world.visits(int(day))
        self._visits = list(zip(users[:visitors].tolist(), times[:visitors].tolist(), strict=True))
        self._new = [
            (item.item_id, item)
            for item in map(world.item, world.alive(int(times[min(visitors, len(times)) - 1])).tolist())
        ]

    def play(self, bundle: Bundle, trust: bool = True) -> Lists:
        """What the visitors are shown by this bundle, and what they do. `trust`: as `RECSYS_TRUST`."""
        behavior, native = Behavior(self._world), core is not None
        runtime = build_runtime(
            bundle,
            PipelineConfig(
                UserHydrator(self._store, name=USER_FEATURES), lambda b, catalogue: [], native=native
            ),
            LoadOptions(item_features=ItemFeatures(native=native), native=native, trust=trust),
        )
        runtime.live.apply(self._new, self._states)
        runtime.live.refresh(self._visits[0][1])
        visitor_of: list[int] = []
        items: list[Ints] = []
        figures: list[tuple[float, float]] = []
        failed = 0
        for number, (user, now_ms) in enumerate(self._visits):
            visitor = behavior.visitor(user)
            behavior.begin_session(visitor)
            for page in range(_LISTS):
                query = Query(
                    request_id=f"{user}-{page}", user_id=f"u{user}", k=K, now_ms=now_ms, deadline_s=math.inf
                )
                answer = runtime.pipeline.answer(query)
                failed += bool(answer.degraded)
                rows = [row_of(id_) for id_ in runtime.catalogue.ids(answer.candidates.rows.tolist())]
                shown = np.array(rows, np.int64)
                figures.append(_expected(behavior, visitor, shown, now_ms))
                response = behavior.respond(visitor, shown, now_ms)
                visitor_of.append(number)
                items.append(np.array(rows + [-1] * (K - len(rows)), np.int64))
                now_ms += 30_000
                if not response.stays:
                    break
        clicks, purchases = np.array(figures).T
        times = np.random.default_rng(0).lognormal(np.log(_MS), _SPREAD, len(figures))
        return Lists(np.array(visitor_of), np.stack(items), clicks, purchases, times, failed)


def _expected(behavior: Behavior, visitor: Visitor, rows: Ints, now_ms: int) -> tuple[float, float]:
    """Clicks and purchases of a list, as a mean of responses that change nothing: what one visitor happens to do would
    be a difference between two bundles that a canary finds."""
    clicks = purchases = 0
    for number in range(_RESPONSES):
        again = replace(visitor, rng=np.random.default_rng((visitor.row, number)), shown=dict(visitor.shown))
        response = behavior.respond(again, rows, now_ms)
        clicks += int(response.clicked.sum())
        purchases += int(response.purchased.sum())
    return clicks / _RESPONSES, purchases / _RESPONSES
