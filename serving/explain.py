"""The funnel of one request, for `?explain=true` and the page: who found what, who scored it how, who removed it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from recsys.catalogue import Catalogue
from recsys.pipeline.pipeline import Answer, Explanation
from recsys.pipeline.stages import StageOutcome
from recsys.request import Candidates, Rows
from serving.runtime import Runtime

MAX_RANKED = 100  # ranked candidates that are listed
MAX_REMOVED = 50  # items listed for each reason of removal


def funnel(runtime: Runtime, answer: Answer) -> dict[str, Any]:
    """JSON-ready: `stages`, `channels`, `shown` (with features by name), `ranked`, `removed`."""
    explained = answer.explanation
    return {
        "stages": [_stage(outcome) for outcome in answer.outcomes],
        "user": {"known": answer.query.known, "history": int(np.count_nonzero(answer.query.history))},
        **(_details(runtime, answer, explained) if explained else {}),
    }


def _details(runtime: Runtime, answer: Answer, explained: Explanation) -> dict[str, Any]:
    ranked, catalogue = explained.ranked, runtime.catalogue
    place = {row: i for i, row in enumerate(ranked.rows.tolist())}
    names = runtime.bundle.manifest.feature_names
    return {
        "channels": {name: len(rows) for name, rows in explained.recalled.items()},
        "shown": [
            {
                **_candidate(catalogue, answer.candidates, i),
                "rank": place.get(row),  # before the selector, from 0
                "propensity": float(answer.propensities[i]),
                "features": _features(names, answer.candidates, i),
            }
            for i, row in enumerate(answer.candidates.rows.tolist())
        ],
        "ranked": [_candidate(catalogue, ranked, i) for i in range(min(len(ranked), MAX_RANKED))],
        "removed": {
            name: {reason: _removed(catalogue, rows) for reason, rows in reasons.items()}
            for name, reasons in explained.removed.items()
        },
    }


def _stage(outcome: StageOutcome) -> dict[str, Any]:
    return {
        "stage": outcome.stage,
        "kind": outcome.kind,
        "status": str(outcome.status),
        "in": outcome.count_in,
        "out": outcome.count_out,
        "ms": round(outcome.ms, 3),
        "error": outcome.error,
        "removed": dict(outcome.removed),
        "non_finite": outcome.non_finite,
    }


def _candidate(catalogue: Catalogue, candidates: Candidates, i: int) -> dict[str, Any]:
    item = catalogue.item(int(candidates.rows[i]))
    return {
        "item_id": item.item_id,
        "title": item.title,
        "channels": candidates.channels_of(i),  # channel → its rank there, from 0
        "score": float(candidates.score[i]),
        "scores": {str(head): float(values[i]) for head, values in candidates.scores.items()},
    }


def _features(names: tuple[str, ...], candidates: Candidates, i: int) -> Mapping[str, float]:
    if candidates.features.shape[1] != len(names):  # not hydrated: the stage is in `degraded`
        return {}
    return dict(zip(names, candidates.features[i].tolist(), strict=True))


def _removed(catalogue: Catalogue, rows: Rows) -> dict[str, Any]:
    return {"count": len(rows), "items": catalogue.ids(rows[:MAX_REMOVED].tolist())}
