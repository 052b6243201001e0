"""What the routes that run the request path share: the checks before it, the user's arms, and what an answer lacks."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from msgspec.structs import replace
from starlette.requests import Request

from recsys.contracts.request import Answer, Query
from serving.api.access import Access
from serving.api.admission import Admission
from serving.api.body import Decoder, decode
from serving.engine.experiments import Assigned, Experiments
from serving.engine.item_feed import ItemFeed
from serving.engine.model_host import ModelHost
from serving.engine.runtime import Runtime
from serving.settings import Scope, ServingSettings
from serving.telemetry import Telemetry

T = TypeVar("T")
ITEM_FEATURES = "item_features"  # named in `degraded` when the item feed has fallen behind
ARM_BUNDLE = "arm_bundle"  # the bundle of the user's arm is not loaded; the published one answers


class Prepared(NamedTuple):
    """A request that is ready for the pool."""

    runtime: Runtime
    assigned: Assigned
    query: Query


@dataclass
class RequestPath:
    """Thread-safe."""

    settings: ServingSettings
    access: Access
    admission: Admission
    host: ModelHost[Runtime]
    experiments: Experiments
    feed: ItemFeed
    telemetry: Telemetry
    now_ms: Callable[[], int]

    async def read(self, request: Request, decoder: Decoder[T]) -> T:
        """The body of a request that may be answered: key, load and rate are checked before it is read.
        Raises `Problem`: 401, 403, 429, 503; 400 or 422 for the body."""
        caller = await self.access.caller(request, Scope.READ)
        self.admission.admit()
        await self.access.count(caller)
        return decode(decoder, await request.body())

    def prepare(self, query: Query) -> Prepared:
        """The query with its deadline and the user's arms, and what answers it: the bundle and request path of these
        arms. An arm's bundle that is not loaded (yet) is replaced by the published one: the impression says which it
        was, and `degraded` names it. Without titles by language in the catalogue, languages make no question another.
        Raises `Unavailable`: no bundle is loaded."""
        assigned = self.experiments.of(query.user_id)
        runtime = (self.host.runtime(assigned.bundle) if assigned.bundle else None) or self.host.require()
        deadline_s = time.monotonic() + self.settings.deadline_ms / 1e3
        languages = query.languages if runtime.catalogue.has_titles else ()
        query = replace(query, deadline_s=deadline_s, arm=assigned.exposures, languages=languages)
        return Prepared(runtime.on(assigned.path), assigned, query)

    def degraded(self, prepared: Prepared, answer: Answer) -> list[str]:
        """Everything that could not do its part for this answer; counted."""
        degraded = list(answer.degraded)
        if self.feed.age_s > self.settings.stale_after_s:
            degraded.append(ITEM_FEATURES)
        if prepared.assigned.bundle not in ("", prepared.runtime.bundle.manifest.version):
            degraded.append(ARM_BUNDLE)
        self.telemetry.degraded(degraded)
        return degraded
