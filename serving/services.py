"""What the routes work with: made once by the composition root (`serving.assembly`), closed with the app."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from starlette.requests import Request

from recsys.contracts.errors import Unavailable
from recsys.observability.tracing import carried
from recsys.store.base import FeatureStore
from recsys.store.replays import Replays
from serving.api.cursors import Cursors
from serving.api.monitoring.experiment_outcomes import ExperimentOutcomes
from serving.api.monitoring.rates import Window
from serving.api.security import Caller, Keys
from serving.engine.experiments import Assigned, Experiments
from serving.engine.item_feed import ItemFeed
from serving.engine.model_host import ModelHost
from serving.engine.result_cache import ResultCache
from serving.engine.runtime import Runtime
from serving.engine.served_features import ServedFeatures
from serving.engine.shadow import Shadow
from serving.ingest.outbox import Outbox
from serving.problems import Problem
from serving.settings import Scope, ServingSettings
from serving.telemetry import Telemetry

T = TypeVar("T")
LogEndsOf = Callable[[str], Sequence[int]]  # topic → the next offset of each partition; may raise Unavailable
_WORK_WEIGHT = 0.05  # of the latest computation in `work_s`: some twenty decide


@dataclass
class Services:
    """The parts of one API process.

    `cpu` answers requests; `io` takes what may wait for the disk or the network, so that neither starves the other.
    """

    settings: ServingSettings
    telemetry: Telemetry
    keys: Keys
    host: ModelHost[Runtime]
    experiments: Experiments
    store: FeatureStore
    results: ResultCache
    feed: ItemFeed
    events: Outbox
    impressions: Outbox
    cpu: Executor
    io: Executor
    now_ms: Callable[[], int]
    cursors: Cursors
    shadow: Shadow
    outcomes: ExperimentOutcomes
    replays: Replays
    close: Callable[[], object] = lambda: (
        None
    )  # leaves every part; accepted records are delivered or stay spooled
    take_tokens: Callable[[str, int], float] | None = (
        None  # key, tokens → seconds to wait; may raise Unavailable
    )
    log_ends: LogEndsOf | None = None  # None: this log cannot be asked
    served: ServedFeatures = field(default_factory=ServedFeatures)
    window: Window = field(default_factory=Window)
    in_flight: int = 0
    work_s: float = 0.0  # what one computation has lately taken in the pool

    async def limit(self, caller: Caller, tokens: int = 1) -> None:
        """Count this request against the key's rate. Without Redis nobody is limited: an outage of the counter must
        not become one of the API.

        Raises:
            Problem: 429 with Retry-After.
        """
        if self.take_tokens is None or not caller.name:
            return
        take = partial(self.take_tokens, caller.name, tokens)
        try:
            wait_s = await asyncio.get_running_loop().run_in_executor(self.io, take)
        except Unavailable:
            return
        if wait_s > 0:
            headers = {"retry-after": str(math.ceil(wait_s))}
            raise Problem(429, f"the key {caller.name!r} has used up its rate; retry later", headers)

    def runtime(self) -> Runtime:
        """What answers now.

        Raises:
            Problem: 503, with what to do.
        """
        runtime = self.host.runtime()
        if runtime is None:
            why = "; ".join(self.host.refused.values())
            raise Problem(
                503,
                f"no usable bundle: {why}"
                if why
                else "no bundle is published yet: run `recsys train all`, then `recsys bundle publish VERSION`",
            )
        return runtime

    def assigned(self, user_id: str) -> tuple[Runtime, Assigned]:
        """What answers this user: the arms' bundle and request path. An arm's bundle that is not loaded (yet) is
        replaced by the published one: the impression says which it was, and `degraded` names it.

        Raises:
            Problem: 503, with what to do.
        """
        assigned = self.experiments.of(user_id)
        runtime = (self.host.runtime(assigned.bundle) if assigned.bundle else None) or self.runtime()
        return runtime.on(assigned.path), assigned

    def admit(self) -> None:
        """Refuse a request at once when so many wait already that it would spend half of its time waiting: under
        overload those that are accepted are answered in time, not all of them late. While fewer wait than there are
        threads nobody is refused: slow answers, as when Redis has just gone, are no overload.

        Call it before anything is done for the request: a refusal takes time from those that were accepted.

        Raises:
            Problem: 503 with Retry-After.
        """
        threads = self.settings.threads
        waits_s = self.in_flight * self.work_s / threads if self.in_flight >= 2 * threads else 0.0
        if self.in_flight >= self.settings.max_in_flight or waits_s > self.settings.deadline_ms / 2e3:
            self.telemetry.shed.inc()
            raise Problem(503, "too many requests; retry later")

    async def compute(self, work: Callable[..., T], *arguments: object) -> T:
        """Run a request's computation in the pool, or refuse it: `admit` once more, for others came meanwhile.

        Raises:
            Problem: 503 with Retry-After.
        """
        self.admit()
        self.in_flight += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self.cpu, carried(self._timed), work, *arguments
            )
        finally:
            self.in_flight -= 1

    def _timed(self, work: Callable[..., T], *arguments: object) -> T:
        began = time.monotonic()
        try:
            return work(*arguments)
        finally:  # two threads may overwrite each other's: it is an estimate
            self.work_s += _WORK_WEIGHT * (time.monotonic() - began - self.work_s)


def services(request: Request) -> Services:
    """The services of the app that got this request."""
    found: Services = request.app.state.services
    return found


async def limited(request: Request) -> None:
    """Of routes that are not hot: each request counts against the rate of its key.

    Raises:
        Problem: 401 for an unknown key, 429 with Retry-After.
    """
    parts = services(request)
    await parts.limit(parts.keys.caller(request.headers))


def allow(request: Request, scope: Scope) -> Caller:
    """The caller, when the key allows it.

    Raises:
        Problem: 401 or 403.
    """
    caller = services(request).keys.caller(request.headers)
    caller.allow(scope)
    return caller
