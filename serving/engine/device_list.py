"""What an answer adds for a device that reranks: the best candidates, the user's history, and the server's scores.

Arrays are little-endian and travel as Base64 in the JSON; features that are equal for all candidates are sent once.
"""

import sys
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from recsys.contracts.languages import title_in
from recsys.contracts.request import Answer, Query
from recsys.features.definitions import ENGAGED_VISITS
from recsys.items.catalogue import Catalogue
from recsys.ranking.edge import EDGE, OUTPUTS, edge_inputs, server_scores
from recsys.ranking.scorer import RankScorer
from serving.engine.runtime import Runtime

MOST = 240  # candidates: twenty pages of a dozen
assert sys.byteorder == "little"  # noqa: S101 - arrays are sent as they lie in memory


class DeviceItem(Struct, frozen=True, kw_only=True):
    """A candidate, the best first; `score` is the server's, with discounts and boosts."""

    item_id: str
    title: str
    categories: list[str]
    score: float


class DeviceFeatures(Struct, frozen=True, kw_only=True):
    """(N, D) float32 in parts."""

    shared: Annotated[bytes, Meta(description="(D,) float32: the first candidate's")]
    columns: Annotated[list[int], Meta(description="those that differ between candidates")]
    varying: Annotated[bytes, Meta(description="(columns, N) float32")]


class DeviceHistory(Struct, frozen=True, kw_only=True):
    """The events that the ranker has read, oldest first; one of scale 0 where there are none."""

    rows: Annotated[bytes, Meta(description="(L, W) int16")]
    scales: Annotated[bytes, Meta(description="(L,) float32")]
    types: list[int]
    gaps: list[int]
    newest_ms: Annotated[int, Meta(description="time of the newest event; 0: none")]


class DeviceList(Struct, frozen=True, kw_only=True):
    """Inputs of `GET /v1/edge/model/{model}` for N candidates, and what the server computed from them."""

    model: Annotated[str, Meta(description="SHA-256 of the model that ranked")]
    items: list[DeviceItem]
    rows: Annotated[bytes, Meta(description="(N, W) int16")]
    scales: Annotated[bytes, Meta(description="(N,) float32")]
    new: Annotated[
        list[int], Meta(description="candidates that the model does not know: no event of a history")
    ]
    features: DeviceFeatures
    history: DeviceHistory
    weights: Annotated[list[float], Meta(description="of the value model, by head")]
    scores: Annotated[bytes, Meta(description="(heads and value, N) float32, by the server")]


def device_list(runtime: Runtime, answer: Answer) -> DeviceList | None:
    """None: not asked for, there is no model for devices, or ranking failed."""
    table, ranked = runtime.artifacts.edge, answer.ranked
    if table is None or not ranked or not ranked.scores:
        return None
    ranked = ranked.take(np.arange(min(len(ranked), MOST)))
    scorer = runtime.pipeline.scorers[0]
    assert isinstance(scorer, RankScorer)  # noqa: S101 - the first one ranks
    given = edge_inputs(table, scorer.inputs(answer.query, ranked), scorer.value_model)
    items, title = map(runtime.catalogue.item, ranked.rows.tolist()), title_in(answer.query.languages)
    scores = server_scores(ranked.scores, {}, scorer.value_model)
    return DeviceList(
        model=runtime.bundle.manifest.files[EDGE],
        items=[
            DeviceItem(item_id=i.item_id, title=title(i), categories=list(i.categories), score=score)
            for i, score in zip(items, ranked.score.tolist(), strict=True)
        ],
        rows=given["rows"].tobytes(),
        scales=given["scales"].tobytes(),
        new=np.flatnonzero(ranked.rows >= runtime.catalogue.trained).tolist(),
        features=_features(given["features"]),
        history=DeviceHistory(
            rows=given["history_rows"].tobytes(),
            scales=given["history_scales"].tobytes(),
            types=given["types"].tolist(),
            gaps=given["gaps"].tolist(),
            newest_ms=_newest_ms(answer.query, runtime.catalogue),
        ),
        weights=given["weights"].tolist(),
        scores=np.stack([scores[name] for name in OUTPUTS]).tobytes(),
    )


def _features(matrix: NDArray[np.float32]) -> DeviceFeatures:
    bits = np.ascontiguousarray(matrix).view(np.uint32)  # NaN equals itself
    columns = np.flatnonzero((bits != bits[0]).any(axis=0))
    return DeviceFeatures(
        shared=matrix[0].tobytes(), columns=columns.tolist(), varying=matrix[:, columns].T.tobytes()
    )


def _newest_ms(query: Query, catalogue: Catalogue) -> int:
    """Of the events that the model knows; 0 without one. A clock that is ahead counts as now."""
    for visit in reversed(query.user.histories.get(ENGAGED_VISITS.name, [])):
        if catalogue.rows.get(visit.item_id, catalogue.trained) < catalogue.trained:
            return min(visit.event_time_ms, query.now_ms)
    return 0
