"""`POST /v1/recommendations`, the hot route, and many of them in one request."""

import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from recsys.contracts.errors import RecsysError
from recsys.contracts.languages import Languages
from recsys.contracts.request import Answer, Query
from recsys.contracts.truth import truth
from recsys.observability.tracing import current_span
from recsys.store.base import FeatureStore
from serving.api.body import JSON, decode
from serving.api.cursors import Cursors
from serving.api.languages import ACCEPT_LANGUAGE, accepted
from serving.api.openapi import REQUEST_ID, answer, body, problems
from serving.api.request_path import Prepared, RequestPath
from serving.api.wire import (
    BatchAnswer,
    BatchAnswers,
    RecommendationBatch,
    RecommendationRequest,
    Recommendations,
)
from serving.engine.device_list import device_list
from serving.engine.explain import funnel
from serving.engine.request_spans import stage_spans
from serving.engine.result_cache import Recommendation, ResultCache
from serving.engine.served_features import ServedFeatures
from serving.engine.shadow import Shadow
from serving.ingest.item_tokens import ItemTokens
from serving.problems import Problem, problem_of, request_id
from serving.settings import ItemTokensMode, Scope

_decoder = msgspec.json.Decoder(RecommendationRequest)
_batch_decoder = msgspec.json.Decoder(RecommendationBatch)
_lines_decoder = msgspec.json.Decoder(list[Recommendation])
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Recommender:
    """From a decoded request to an encoded list. Thread-safe."""

    path: RequestPath
    results: ResultCache
    cursors: Cursors
    tokens: ItemTokens
    served: ServedFeatures
    shadow: Shadow
    store: FeatureStore  # knows the ages of item features, for `explain`

    async def list(
        self,
        asked: RecommendationRequest,
        languages: Languages,
        own_id: str,
        began: float,
        explain: bool = False,
    ) -> bytes:
        """`Recommendations`, encoded. `languages`: those of the titles, where the request itself names none.
        Raises `Problem` or `RecsysError`: no list can be made."""
        now_ms = self.path.now_ms()
        earlier = None if asked.cursor is None else self.cursors.shown(asked.cursor, asked.user_id, now_ms)
        excluded, settings = frozenset(asked.exclude).union(earlier or ()), self.path.settings
        k = asked.k or settings.default_k
        if k > settings.max_k:
            raise Problem(422, f"k: {k} is more than {settings.max_k}, the most that one answer may have")
        query = Query(
            request_id=own_id,
            user_id=asked.user_id,
            k=k,
            now_ms=now_ms,
            context=asked.context,
            excluded_items=excluded,
            allow_seen=asked.allow_seen,
            filter=asked.parsed_filter,
            region=asked.region,
            languages=asked.languages or languages,
            explain=explain,
            for_device=asked.edge,
        )
        prepared = self.path.prepare(query)
        return await self.path.admission.compute(self._answer, prepared, earlier, began)

    def _answer(self, prepared: Prepared, earlier: tuple[str, ...] | None, began: float) -> bytes:
        """Everything of a request that costs processor time; runs in the pool. `earlier`: items of earlier pages, None
        for a list without pages."""
        runtime, assigned, query = prepared
        served = self.results.answer(runtime, query)
        answer = served.answer
        if not served.cached:
            self.path.telemetry.answer(answer)
            self.path.telemetry.listed(answer)
            self.served.note(runtime, answer)
            self.shadow.offer(runtime, answer)
            if (span := current_span.get()) is not None:
                stage_spans(span, answer)
        degraded, took_s = self.path.degraded(prepared, answer), time.perf_counter() - began
        if assigned.release:
            self.path.telemetry.release(assigned.release, took_s, bool(degraded))
        return _encode(
            Recommendations(
                request_id=query.request_id,
                user_id=query.user_id,
                bundle=runtime.bundle.manifest.version,
                arms=dict(assigned.arms),
                items=cast("list[Recommendation]", _with_tokens(self.tokens, query, served.lines)),  # encoded
                degraded=degraded,
                cached=served.cached,
                ms=round(took_s * 1e3, 3),
                cursor=msgspec.UNSET if earlier is None else self._next_page(prepared, earlier, answer),
                funnel=funnel(runtime, answer, self.store) if query.explain else msgspec.UNSET,
                edge=device_list(runtime, answer) or msgspec.UNSET,
            )
        )

    def _next_page(
        self, prepared: Prepared, earlier: tuple[str, ...], answer: Answer
    ) -> str | msgspec.UnsetType:
        """The cursor of the next page; none after a page that is not full, for then nothing is left."""
        query, rows = prepared.query, answer.candidates.rows
        if len(rows) < query.k:
            return msgspec.UNSET
        shown = (*earlier, *prepared.runtime.catalogue.ids(rows.tolist()))
        return self.cursors.make(query.user_id, shown, query.now_ms) or msgspec.UNSET


def _with_tokens(tokens: ItemTokens, query: Query, encoded: msgspec.Raw) -> msgspec.Raw:
    if tokens.mode is ItemTokensMode.OFF:
        return encoded
    lines = _lines_decoder.decode(encoded)
    made = tokens.make(query.request_id, query.user_id, [line.item_id for line in lines], query.now_ms)
    with_them = (msgspec.structs.replace(line, token=token) for line, token in zip(lines, made, strict=True))
    return msgspec.Raw(_encode([*with_them]))


router = APIRouter(tags=["recommendations"])
_ASKED = {"user_id": "196", "k": 10}
_EXAMPLE = {
    "request_id": REQUEST_ID,
    "user_id": "196",
    "bundle": "20260101-120000",
    "arms": {"diversity": "dpp"},
    "items": [
        {
            "item_id": "50",
            "score": 0.731,
            "propensity": 1.0,
            "channels": ["two_tower", "popular"],
            "title": "Star Wars (1977)",
            "categories": ["Action", "Adventure"],
        }
    ],
    "degraded": [],
    "cached": False,
    "ms": 4.1,
}
_BATCH_EXAMPLE = {
    "answers": [{"status": 200, "answer": _EXAMPLE}, {"status": 422, "detail": "k: 500 is more than 200"}]
}
_EXPLAIN = {
    "name": "explain",
    "in": "query",
    "description": "Add `funnel`: stages with milliseconds, channels, scores, features with age and contribution,"
    " reasons, moves, removals.",
    "schema": {"type": "boolean", "default": False},
}
_LANGUAGES = {
    "name": "accept-language",
    "in": "header",
    "description": ACCEPT_LANGUAGE,
    "schema": {"type": "string"},
}


@router.post(
    "/v1/recommendations",
    summary="Recommend items to a user",
    operation_id="recommend",
    openapi_extra={
        "parameters": [_EXPLAIN, _LANGUAGES],
        **body(
            RecommendationRequest,
            user=_ASKED,
            first_page=_ASKED | {"cursor": ""},
            filtered=_ASKED
            | {"filter": '"Comedy" in categories and created >= "1990-01-01"', "region": "de"},
            in_german=_ASKED | {"language": "de"},
        ),
    },
    responses=answer(200, "The list, the best item first", Recommendations, _EXAMPLE)
    | problems(400, 401, 403, 410, 413, 429, 503),
)
async def recommend(request: Request) -> Response:
    """The full funnel for one user. Whatever part is away is named in `degraded`."""
    began = time.perf_counter()
    recommender: Recommender = request.app.state.recommender
    asked = await recommender.path.read(request, _decoder)
    explain = _flag(request, "explain")
    content = await recommender.list(asked, _accepted(request), request_id(request), began, explain)
    return Response(content, media_type=JSON)


@router.post(
    "/v1/recommendations/batch",
    summary="Recommend items to many users",
    operation_id="recommendBatch",
    openapi_extra={
        "parameters": [_LANGUAGES],
        **body(
            RecommendationBatch, users={"requests": [{"user_id": "196", "k": 5}, {"user_id": "186", "k": 5}]}
        ),
    },
    responses=answer(200, "One answer for each request, in their order", BatchAnswers, _BATCH_EXAMPLE)
    | problems(400, 401, 403, 413, 429, 503),
)
async def recommend_batch(request: Request) -> Response:
    """Each request is answered or refused on its own; all count against the rate. They are computed one after the
    other, so that a batch takes one thread's time."""
    recommender: Recommender = request.app.state.recommender
    access, most = recommender.path.access, recommender.path.settings.max_batch
    caller = await access.caller(request, Scope.READ)
    batch = decode(_batch_decoder, await request.body()).requests
    await access.count_records(caller, "requests", len(batch), most)
    own_id, languages = request_id(request), _accepted(request)
    answers = [
        await _one_of_batch(recommender, asked, languages, f"{own_id}.{i}") for i, asked in enumerate(batch)
    ]
    return Response(b'{"answers":[%b]}' % b",".join(answers), media_type=JSON)


async def _one_of_batch(
    recommender: Recommender, asked: RecommendationRequest, languages: Languages, own_id: str
) -> bytes:
    """A `BatchAnswer`, encoded."""
    try:
        content = await recommender.list(asked, languages, own_id, time.perf_counter())
    except (Problem, RecsysError) as error:
        problem = problem_of(error)
        return _encode(BatchAnswer(status=problem.status, detail=problem.detail))
    return b'{"status":%d,"answer":%b}' % (HTTPStatus.OK, content)


def _accepted(request: Request) -> Languages:
    return accepted(request.headers.get("accept-language", ""))


def _flag(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "false")
    try:
        return truth(text)
    except ValueError:
        raise Problem(422, f"{name}: true or false is needed, got {text[:20]!r}") from None
