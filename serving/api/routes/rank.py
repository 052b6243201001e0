"""`POST /v1/rank`: the caller's candidates in the order of our ranker. Plain Starlette, msgspec in and out."""

import time

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from recsys.contracts.request import Candidates, Query
from serving.api.body import decode
from serving.api.routes.recommendations import degradations
from serving.api.wire import RankedItem, Ranking, RankRequest
from serving.engine.experiments import Assigned
from serving.engine.runtime import Runtime
from serving.problems import request_id
from serving.services import Services, allow, services
from serving.settings import Scope

_decoder = msgspec.json.Decoder(RankRequest)
_encode = msgspec.json.Encoder().encode


async def rank(request: Request) -> Response:
    began = time.perf_counter()
    parts = services(request)
    await parts.limit(allow(request, Scope.READ))
    asked = decode(_decoder, await request.body())
    runtime, assigned = parts.assigned(asked.user_id)
    query = Query(
        request_id=request_id(request),
        user_id=asked.user_id,
        k=len(asked.items),
        now_ms=parts.now_ms(),
        deadline_s=time.monotonic() + parts.settings.deadline_ms / 1e3,
        context=asked.context,
        arm=assigned.exposures,
    )
    body = await parts.compute(_answer, parts, runtime, assigned, query, asked.items, began)
    return Response(body, media_type="application/json")


def _answer(
    parts: Services, runtime: Runtime, assigned: Assigned, query: Query, items: list[str], began: float
) -> bytes:
    """Everything of a request that costs processor time; runs in the pool."""
    catalogue = runtime.catalogue
    asked = list(dict.fromkeys(items))
    rows = catalogue.rows_of(asked)
    rows = rows[catalogue.alive[rows]]
    known = set(catalogue.ids(rows.tolist()))
    answer = runtime.pipeline.rank(query, rows)
    parts.telemetry.answer(answer)
    return _encode(
        Ranking(
            request_id=query.request_id,
            user_id=query.user_id,
            bundle=runtime.bundle.manifest.version,
            arms=dict(assigned.arms),
            items=_lines(runtime, answer.candidates),
            unknown=[item_id for item_id in asked if item_id not in known],
            degraded=degradations(parts, runtime, assigned, answer),
            ms=round((time.perf_counter() - began) * 1e3, 3),
        )
    )


def _lines(runtime: Runtime, ranked: Candidates) -> list[RankedItem]:
    heads = [str(head) for head in ranked.scores]
    scores = np.array(list(ranked.scores.values()), np.float32).reshape(len(heads), len(ranked)).T
    return [
        RankedItem(item_id=item_id, score=score, scores=dict(zip(heads, values, strict=True)))
        for item_id, score, values in zip(
            runtime.catalogue.ids(ranked.rows.tolist()), ranked.score.tolist(), scores.tolist(), strict=True
        )
    ]
