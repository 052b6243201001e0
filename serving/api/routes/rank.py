"""`POST /v1/rank`: the caller's candidates in the order of the ranker."""

import time

import msgspec
import numpy as np
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from recsys.contracts.languages import Languages, title_in
from recsys.contracts.request import Candidates, Query, Rows
from serving.api.body import JSON
from serving.api.openapi import REQUEST_ID, answer, body, problems
from serving.api.request_path import Prepared, RequestPath
from serving.api.wire import RankedItem, Ranking, RankRequest
from serving.engine.runtime import Runtime
from serving.problems import request_id

router = APIRouter(tags=["recommendations"])
_decoder = msgspec.json.Decoder(RankRequest)
_encode = msgspec.json.Encoder().encode
_SCORES = {"click": 0.61, "conversion": 0.22, "like": 0.05, "dwell": 1.1}
_EXAMPLE = {
    "request_id": REQUEST_ID,
    "user_id": "196",
    "bundle": "20260101-120000",
    "arms": {},
    "items": [{"item_id": "302", "score": 0.84, "scores": _SCORES}],
    "unknown": ["377"],
    "ineligible": {"242": ["unavailable"]},
    "degraded": [],
    "ms": 2.3,
}


@router.post(
    "/v1/rank",
    summary="Rank candidates of your own",
    operation_id="rank",
    openapi_extra=body(RankRequest, candidates={"user_id": "196", "items": ["242", "302", "377"]}),
    responses=answer(200, "The candidates, the best first", Ranking, _EXAMPLE)
    | problems(400, 401, 403, 413, 429, 503),
)
async def rank(request: Request) -> Response:
    """They come back in the order of the ranker, with the score of each head, and with titles if the body names a
    `language`. Those that may not be shown now, by their window, region or the filter, are named with the reason; seen
    ones stay. Nothing is rearranged or logged as shown."""
    began = time.perf_counter()
    path: RequestPath = request.app.state.request_path
    asked = await path.read(request, _decoder)
    query = Query(
        request_id=request_id(request),
        user_id=asked.user_id,
        k=len(asked.items),
        now_ms=path.now_ms(),
        context=asked.context,
        filter=asked.parsed_filter,
        region=asked.region,
    )
    prepared = path.prepare(query)
    content = await path.admission.compute(_answer, path, prepared, asked, began)
    return Response(content, media_type=JSON)


def _answer(path: RequestPath, prepared: Prepared, request: RankRequest, began: float) -> bytes:
    """Everything of a request that costs processor time; runs in the pool."""
    runtime, assigned, query = prepared
    catalogue = runtime.catalogue
    asked = list(dict.fromkeys(request.items))
    rows = catalogue.rows_of(asked)
    rows = rows[catalogue.alive[rows]]
    known = set(catalogue.ids(rows.tolist()))
    answer = runtime.pipeline.rank(query, rows)
    path.telemetry.answer(answer)
    ranked, query = answer.candidates, answer.query
    may_show = np.ones(len(ranked), bool) if query.eligible is None else query.eligible.of(ranked.rows)
    return _encode(
        Ranking(
            request_id=query.request_id,
            user_id=query.user_id,
            bundle=runtime.bundle.manifest.version,
            arms=dict(assigned.arms),
            items=_lines(runtime, ranked.take(may_show), request.languages),
            ineligible=_reasons(runtime, query, ranked.rows[~may_show]),
            unknown=[item_id for item_id in asked if item_id not in known],
            degraded=path.degraded(prepared, answer),
            ms=round((time.perf_counter() - began) * 1e3, 3),
        )
    )


def _lines(runtime: Runtime, ranked: Candidates, languages: Languages) -> list[RankedItem]:
    heads = [str(head) for head in ranked.scores]
    scores = np.array(list(ranked.scores.values()), np.float32).reshape(len(heads), len(ranked)).T
    items, title = map(runtime.catalogue.item, ranked.rows.tolist()), title_in(languages)
    return [
        RankedItem(
            item_id=item.item_id,
            score=score,
            scores=dict(zip(heads, values, strict=True)),
            title=title(item) if languages else msgspec.UNSET,
        )
        for item, score, values in zip(items, ranked.score.tolist(), scores.tolist(), strict=True)
    ]


def _reasons(runtime: Runtime, query: Query, rows: Rows) -> dict[str, list[str]]:
    """Item id → why it may not be shown."""
    masks = runtime.artifacts.eligibility.reasons(rows, query.now_ms, query.filter, query.region)
    return {
        item_id: [reason for reason, holds in masks.items() if holds[i]]
        for i, item_id in enumerate(runtime.catalogue.ids(rows.tolist()))
    }
