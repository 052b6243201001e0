"""`POST /v1/recommendations`: the hot route, and many of them in one request. Plain Starlette endpoints, msgspec in and
out."""

import time
from collections.abc import Sequence
from http import HTTPStatus

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from recsys.contracts.errors import RecsysError
from recsys.contracts.request import Answer, Query
from recsys.observability.tracing import current_span
from serving.api.body import decode
from serving.api.wire import (
    BatchAnswer,
    Recommendation,
    RecommendationBatch,
    RecommendationRequest,
    Recommendations,
)
from serving.engine.experiments import Assigned
from serving.engine.explain import funnel
from serving.engine.request_spans import stage_spans
from serving.engine.runtime import Runtime
from serving.problems import Problem, problem_of, request_id
from serving.services import Services, allow, services
from serving.settings import Scope

JSON = "application/json"
ITEM_FEATURES = "item_features"  # named in `degraded` when the item feed has fallen behind
ARM_BUNDLE = "arm_bundle"  # the bundle of the user's arm is not loaded; the published one answers

_decoder = msgspec.json.Decoder(RecommendationRequest)
_batch_decoder = msgspec.json.Decoder(RecommendationBatch)
_encode = msgspec.json.Encoder().encode


async def recommend(request: Request) -> Response:
    began = time.perf_counter()
    parts = services(request)
    caller = allow(request, Scope.READ)
    parts.admit()
    await parts.limit(caller)
    asked = decode(_decoder, await request.body())
    body = await _list(parts, asked, request_id(request), began, _flag(request, "explain"))
    return Response(body, media_type=JSON)


async def recommend_batch(request: Request) -> Response:
    """One list after the other, so that a batch takes one thread's time and other requests get theirs."""
    parts = services(request)
    caller = allow(request, Scope.READ)
    batch = decode(_batch_decoder, await request.body()).requests
    if len(batch) > parts.settings.max_batch:
        raise Problem(413, f"requests: at most {parts.settings.max_batch} in one batch, got {len(batch)}")
    await parts.limit(caller, len(batch))
    own_id = request_id(request)
    answers = [await _one_of_batch(parts, asked, f"{own_id}.{i}") for i, asked in enumerate(batch)]
    return Response(b'{"answers":[%b]}' % b",".join(answers), media_type=JSON)


async def _one_of_batch(parts: Services, asked: RecommendationRequest, own_id: str) -> bytes:
    """A `BatchAnswer`, encoded."""
    try:
        body = await _list(parts, asked, own_id, time.perf_counter())
    except (Problem, RecsysError) as error:
        problem = problem_of(error)
        return _encode(BatchAnswer(status=problem.status, detail=problem.detail))
    return b'{"status":%d,"answer":%b}' % (HTTPStatus.OK, body)


async def _list(
    parts: Services, asked: RecommendationRequest, own_id: str, began: float, explain: bool = False
) -> bytes:
    """`Recommendations`, encoded.

    Raises:
        Problem, RecsysError: there is no list.
    """
    now_ms = parts.now_ms()
    shown = () if asked.cursor is None else parts.cursors.shown(asked.cursor, asked.user_id, now_ms)
    runtime, assigned = parts.assigned(asked.user_id)
    query = Query(
        request_id=own_id,
        user_id=asked.user_id,
        k=_k(asked.k, parts),
        now_ms=now_ms,
        deadline_s=time.monotonic() + parts.settings.deadline_ms / 1e3,
        context=asked.context,
        excluded_items=frozenset(asked.exclude).union(shown),
        explain=explain,
        arm=assigned.exposures,
    )
    before = None if asked.cursor is None else shown
    return await parts.compute(_answer, parts, runtime, assigned, query, before, began)


def _answer(
    parts: Services,
    runtime: Runtime,
    assigned: Assigned,
    query: Query,
    before: tuple[str, ...] | None,
    began: float,
) -> bytes:
    """Everything of a request that costs processor time; runs in the pool. `before`: shown on earlier pages, None
    for a list that is not in pages."""
    served = parts.results.answer(runtime, query)
    answer = served.answer
    if not served.cached:
        parts.telemetry.answer(answer)
        parts.served.note(runtime, answer)
        parts.shadow.offer(runtime, answer)
        if (span := current_span.get()) is not None:
            stage_spans(span, answer)
    degraded = degradations(parts, runtime, assigned, answer)
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
            cursor=msgspec.UNSET if before is None else _next_page(parts, query, before, served.lines),
            funnel=funnel(runtime, answer, parts.store) if query.explain else msgspec.UNSET,
        )
    )


def degradations(parts: Services, runtime: Runtime, assigned: Assigned, answer: Answer) -> list[str]:
    """Everything that could not do its part for this answer; counted."""
    degraded = list(answer.degraded)
    if parts.feed.age_s > parts.settings.stale_after_s:
        degraded.append(ITEM_FEATURES)
    if assigned.bundle not in ("", runtime.bundle.manifest.version):
        degraded.append(ARM_BUNDLE)
    parts.telemetry.degraded(degraded)
    return degraded


def _next_page(
    parts: Services, query: Query, before: tuple[str, ...], lines: Sequence[Recommendation]
) -> str | msgspec.UnsetType:
    """The cursor behind this page; none when it was not full, for then there is nothing more."""
    if len(lines) < query.k:
        return msgspec.UNSET
    shown = (*before, *(line.item_id for line in lines))
    return parts.cursors.make(query.user_id, shown, query.now_ms) or msgspec.UNSET


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
