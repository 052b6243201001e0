"""The simulated A/B environment: the request path that serving composes, in this process, in virtual time.

Two deployments of one catalogue. Events of all users are folded into `after`'s features at once and into `before`'s at
midnight: in an A/B test both arms learn from everybody. It has the methods of `recsys.client`, so that simulated users
(`infra.evaluation.load.visitors`) visit it like an API. Nothing depends on real time or on threads: one seed gives one
log.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.evaluation.case_study.exploration import Draw, draw_of
from infra.evaluation.load.visitors import Shop
from recsys.bundle import Bundle
from recsys.client.models import EventResults, Recommendations, RecommendedItem
from recsys.contracts.events import Event, derived_id, item_context
from recsys.contracts.impressions import Impression, exposures_text, impression_events
from recsys.contracts.request import Query, Rows
from recsys.contracts.state import EntityState
from recsys.contracts.types import EventType, Item, Topic
from recsys.experiments.assignment import Assigner
from recsys.features.definitions import FEATURES
from recsys.items.catalogue import Catalogue
from recsys.lake.lake import EVENTS, IMPRESSIONS, day_writer, events_table, impressions_table
from recsys.native import core
from recsys.pipeline.hydrators import UserHydrator
from recsys.store.base import Batch
from recsys.store.memory import MemoryFeatureStore
from serving.engine.artifacts import LoadOptions
from serving.engine.feature_source import ItemFeatures
from serving.engine.pipeline_builder import PathConfig, PipelineConfig
from serving.engine.runtime import USER_FEATURES, Runtime, build_runtime
from serving.ingest.impression_log import ImpressionLog

# age of item features at most (a live system: a second); users' are of the instant
_REFRESH_MS = 5 * 60_000


@dataclass(frozen=True)
class Deployment:
    """One arm: its models, its request path, and whether its features are those of last night."""

    bundle: Bundle
    path: PathConfig
    nightly: bool = False


class _NightlyUsers(dict[str, EntityState]):
    """The users' states as of last midnight: as much of a `FeatureStore` as a request reads."""

    def user(self, user_id: str) -> EntityState:
        return self.get(user_id, EntityState())


class _RunningArm:
    """A running deployment, and what has changed in the store since it last read it."""

    def __init__(
        self, deployment: Deployment, store: MemoryFeatureStore, impressions: list[Impression]
    ) -> None:
        self.nightly = deployment.nightly
        self._store = store
        self._nightly_users = _NightlyUsers()
        self._users: set[str] = set()
        self._items: set[str] = set()
        self._refreshed_ms = 0
        version = deployment.bundle.manifest.version

        def put(impression: Callable[[], Impression], headers: object = ()) -> None:
            impressions.append(impression())  # at once, not by a thread

        def log(bundle: Bundle, catalogue: Catalogue) -> list[ImpressionLog]:
            return [ImpressionLog(put, catalogue, version, FEATURES.fingerprint)]

        read_user = UserHydrator(self._nightly_users if self.nightly else store, name=USER_FEATURES)
        native = core is not None
        self.runtime = build_runtime(
            deployment.bundle,
            PipelineConfig(read_user, log, deployment.path, native=native),
            LoadOptions(item_features=ItemFeatures(native=native), native=native),
        )

    def changed(self, events: Sequence[Event]) -> None:
        self._items.update(event.item_id for event in events)
        if self.nightly:
            self._users.update(event.user_id for event in events)

    def at(self, now_ms: int) -> Runtime:
        """The runtime as a request of that time finds it."""
        if not self.nightly and now_ms - self._refreshed_ms >= _REFRESH_MS:
            self.refresh(now_ms)
        return self.runtime

    def refresh(self, now_ms: int) -> None:
        """Read what has changed."""
        self._nightly_users.update({user_id: self._store.user(user_id) for user_id in sorted(self._users)})
        items = sorted(self._items)
        self.runtime.live.apply((), zip(items, self._store.items(items), strict=True))
        self.runtime.live.refresh(now_ms)
        self._users, self._items, self._refreshed_ms = set(), set(), now_ms


@dataclass
class SimulatedShop(Shop):
    """A shop with two arms. `clock`: the simulated time, set by the owner of the loop."""

    deployments: Mapping[str, Deployment]
    assigner: Assigner
    experiment: str
    clock: Callable[[], int] = lambda: 0
    draw: Draw | None = None  # of the latest answer
    _events: list[Event] = field(default_factory=list)
    _impressions: list[Impression] = field(default_factory=list)
    _requests: int = 0

    def __post_init__(self) -> None:
        self._store = MemoryFeatureStore(FEATURES)
        self._epoch = self._store.claim(Topic.EVENTS, 0, "simulated").epoch
        self._applied = 0
        self._arms = {
            name: _RunningArm(d, self._store, self._impressions) for name, d in self.deployments.items()
        }
        # both arms number items alike
        self._catalogue = next(iter(self._arms.values())).runtime.catalogue

    def learn_history(self, events: Iterable[Event], now_ms: int) -> None:
        """Start the experiment: both arms know everything up to that midnight."""
        self._fold(list(events))
        for arm in self._arms.values():
            arm.refresh(now_ms)

    async def recommend(
        self, user_id: str, k: int | None = None, context: Mapping[str, str] = {}, exclude: Iterable[str] = ()
    ) -> Recommendations:
        now_ms = self.clock()
        assignments = self.assigner.assign(user_id)
        arm = {a.experiment: a.arm.name for a in assignments}[self.experiment]
        self._requests += 1
        query = Query(
            request_id=f"ab-{self._requests}",
            user_id=user_id,
            k=k or 10,
            now_ms=now_ms,
            deadline_s=math.inf,
            context=dict(context),
            excluded_items=frozenset(exclude),
            arm=exposures_text({a.experiment: a.exposure for a in assignments}),
            explain=bool(self.deployments[arm].path.rerank.exploration.places),
        )
        runtime = self._arms[arm].at(now_ms)
        answer = runtime.pipeline.answer(query)
        exploration = self.deployments[arm].path.rerank.exploration
        self.draw = draw_of(answer, exploration, runtime.artifacts.uncertainty)
        self._record(impression_events(self._impressions[-1]) if len(answer.candidates) else [])
        lines = zip(answer.candidates.rows.tolist(), answer.candidates.score.tolist(), strict=True)
        items = tuple(RecommendedItem(runtime.catalogue.item(row).item_id, score) for row, score in lines)
        return Recommendations(
            query.request_id, user_id, runtime.bundle.manifest.version, items, answer.degraded, 0.0
        )

    async def send(self, events: Sequence[Mapping[str, Any]]) -> EventResults:
        accepted = []
        for raw in events:
            item = self._catalogue.item(self._catalogue.rows[raw["item_id"]])
            event_id = derived_id(raw["event_time_ms"], raw["request_id"], raw["type"], raw["position"])
            fields = {**raw, "type": EventType(raw["type"]), "event_id": event_id}
            accepted.append(Event(**fields, context=item_context({}, item.categories, item.creator)))
        self._record(accepted)
        return EventResults(len(accepted), 0, ())

    async def put_items(self, items: Sequence[Item]) -> None:
        for arm in self._arms.values():
            arm.runtime.live.apply([(item.item_id, item) for item in items], ())

    async def delete_item(self, item_id: str) -> None:
        for arm in self._arms.values():
            arm.runtime.live.apply([(item_id, None)], ())

    def ids(self, rows: Rows) -> list[str]:
        """Item ids of catalogue rows."""
        return self._catalogue.ids(rows.tolist())

    def _record(self, events: Sequence[Event]) -> None:
        self._events += events
        self._fold(events)

    def _fold(self, events: Sequence[Event]) -> None:
        if not events:
            return
        first, last = self._applied, self._applied + len(events)
        newest_ms = max(event.event_time_ms for event in events)
        self._store.apply(
            Batch(Topic.EVENTS, 0, self._epoch, first, last, newest_ms, range(first, last), events)
        )
        self._applied = last
        for arm in self._arms.values():
            arm.changed(events)

    def midnight(self, lake: Path, day: int, now_ms: int) -> None:
        """Run the nightly batch: `before` learns of the day, the day goes to the lake."""
        for arm in self._arms.values():
            arm.refresh(now_ms)
        with day_writer(lake, EVENTS, f"ab-{day:03d}") as writer:
            writer.write(events_table(self._events))
        with day_writer(lake, IMPRESSIONS, f"ab-{day:03d}") as writer:
            writer.write(impressions_table(self._impressions))
        self._events.clear()
        self._impressions.clear()
