"""`POST /v1/recommendations`: the hot route. A plain Starlette endpoint, msgspec in and out."""

import time

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from recsys.request import Query
from serving.body import decode
from serving.experiments import Assigned
from serving.explain import funnel
from serving.problems import Problem, request_id
from serving.runtime import Runtime
from serving.security import Scope
from serving.services import Services, allow, services
from serving.wire import RecommendationRequest, Recommendations

JSON = "application/json"
ITEM_FEATURES = "item_features"  # named in `degraded` when the item feed has fallen behind
ARM_BUNDLE = "arm_bundle"  # the bundle of the user's arm is not loaded; the published one answers

_decoder = msgspec.json.Decoder(RecommendationRequest)
_encode = msgspec.json.Encoder().encode


async def recommend(request: Request) -> Response:
    began = time.perf_counter()
    parts = services(request)
    await parts.limit(allow(request, Scope.READ))
    asked = decode(_decoder, await request.body())
    explain = _flag(request, "explain")
    runtime, assigned = parts.assigned(asked.user_id)
    query = Query(
        request_id=request_id(request),
        user_id=asked.user_id,
        k=_k(asked.k, parts),
        now_ms=parts.now_ms(),
        deadline_s=time.monotonic() + parts.settings.deadline_ms / 1e3,
        context=asked.context,
        excluded_items=frozenset(asked.exclude),
        explain=explain,
        arm=assigned.exposures,
    )
    body = await parts.compute(_answer, parts, runtime, assigned, query, began)
    return Response(body, media_type=JSON)


def _answer(parts: Services, runtime: Runtime, assigned: Assigned, query: Query, began: float) -> bytes:
    """Everything of a request that costs processor time; runs in the pool."""
    served = parts.results.answer(runtime, query)
    answer = served.answer
    degraded = list(answer.degraded)
    if parts.feed.age_s > parts.settings.stale_after_s:
        degraded.append(ITEM_FEATURES)
    if assigned.bundle not in ("", runtime.bundle.manifest.version):
        degraded.append(ARM_BUNDLE)
    if not served.cached:
        parts.telemetry.answer(answer)
        parts.served.note(runtime, answer)
    parts.telemetry.degraded(degraded)
    return _encode(
        Recommendations(
            request_id=query.request_id,
            user_id=query.user_id,
            bundle=runtime.bundle.manifest.version,
            arms=dict(assigned.arms),
            items=served.lines,
            degraded=degraded,
            cached=served.cached,
            ms=round((time.perf_counter() - began) * 1e3, 3),
            funnel=funnel(runtime, answer, parts.store) if query.explain else msgspec.UNSET,
        )
    )


def _k(asked: int | None, parts: Services) -> int:
    k = asked or parts.settings.default_k
    if k > parts.settings.max_k:
        raise Problem(422, f"k: {k} is more than {parts.settings.max_k}, the most that one answer may have")
    return k


def _flag(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "false").lower()
    if text not in ("true", "false", "1", "0"):
        raise Problem(422, f"{name}: true or false is needed, got {text[:20]!r}")
    return text in ("true", "1")
