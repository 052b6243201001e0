"""The funnel of one request, for `?explain=true`, `recsys explain` and the page: who found what, who scored it how, how
old what they read is, what moved it, who removed it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recsys.contracts.errors import Unavailable
from recsys.contracts.languages import Title, title_in
from recsys.contracts.request import Answer, Candidates, Explanation, Rows, StageOutcome
from recsys.features.age import ages
from recsys.features.definitions import FEATURES
from recsys.items.catalogue import Catalogue
from recsys.store.base import FeatureStore
from serving.engine.contribution import contributions, reasons, shared_by
from serving.engine.runtime import USER_FEATURES, Runtime

MAX_RANKED = 100  # ranked candidates that are listed
MAX_REMOVED = 50  # items listed for each reason of removal
MAX_DETAILED = 30  # shown items with the age and the contribution of each feature
PINNED = "pinned"  # the recall channel of pin rules


def funnel(runtime: Runtime, answer: Answer, store: FeatureStore) -> dict[str, Any]:
    """JSON-ready: `stages`, `channels`, `features` (what they are), `shared` (those that are the same for all
    candidates), `shown`, `ranked`, `removed`.
    `store`: knows the items' states, for the ages of their features."""
    explained = answer.explanation
    query = answer.query
    return {
        "stages": [_stage(outcome) for outcome in answer.outcomes],
        "user": {"known": query.known, "history": int(np.count_nonzero(query.history))},
        **(_details(runtime, answer, explained, store) if explained else {}),
    }


def _details(runtime: Runtime, answer: Answer, explained: Explanation, store: FeatureStore) -> dict[str, Any]:
    ranked, catalogue, shown = explained.ranked, runtime.catalogue, answer.candidates
    rank = {row: i for i, row in enumerate(ranked.rows.tolist())}
    place = {row: i for i, row in enumerate(shown.rows.tolist())}
    names, title = runtime.bundle.manifest.feature_names, title_in(answer.query.languages)
    detailed = shown.take(np.arange(min(len(shown), MAX_DETAILED)))
    feature_ages = _ages(answer, catalogue.ids(detailed.rows.tolist()), store)
    shares = contributions(runtime.pipeline.scorers[0], answer.query, detailed)
    shared = shared_by(ranked)
    lines = []
    for i, row in enumerate(shown.rows.tolist()):
        line = {
            **_candidate(catalogue, shown, i, title),
            "rank": rank.get(row),  # before the selector, from 0
            "moved_by": _moved_by(shown, answer, i, rank.get(row)),
            "propensity": float(answer.propensities[i]),
            "features": _features(names, shown, i),
        }
        if i < len(detailed):
            line["ages_ms"] = feature_ages[i] if feature_ages else None
            contribution = {name: round(float(share[i]), 6) for name, share in shares.items()}
            line["contributions"] = contribution
            line["reasons"] = reasons(contribution, shared)
        lines.append(line)
    return {
        "channels": {name: len(rows) for name, rows in explained.recalled.items()},
        "features": {f.name: {"of": str(f.entity), "columns": list(f.columns)} for f in FEATURES.features},
        "shared": shared,
        "shown": lines,
        "ranked": [
            {**_candidate(catalogue, ranked, i, title), "place": place.get(int(ranked.rows[i]))}
            for i in range(min(len(ranked), MAX_RANKED))
        ],
        "removed": {
            name: {reason: _removed(catalogue, rows, title) for reason, rows in reasons.items()}
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
        "began_ms": round(outcome.began_ms, 3),
        "ms": round(outcome.ms, 3),
        "error": outcome.error,
        "removed": dict(outcome.removed),
        "non_finite": outcome.non_finite,
    }


def _candidate(catalogue: Catalogue, candidates: Candidates, i: int, title: Title) -> dict[str, Any]:
    item = catalogue.item(int(candidates.rows[i]))
    return {
        "item_id": item.item_id,
        "title": title(item),
        "channels": candidates.channels_of(i),  # channel → its rank there, from 0
        "score": float(candidates.score[i]),
        "scores": {str(head): float(values[i]) for head, values in candidates.scores.items()},
    }


def _ages(answer: Answer, item_ids: Sequence[str], store: FeatureStore) -> list[dict[str, int | None]] | None:
    """None: the store that knows them is away."""
    if USER_FEATURES in answer.degraded:
        return None
    try:
        states = store.items(item_ids)
    except Unavailable:
        return None
    return ages(FEATURES, answer.query.user, states, answer.query.now_ms)


def _moved_by(shown: Candidates, answer: Answer, place: int, rank: int | None) -> str:
    """Why an item is not at the place that its score has earned; empty: it is."""
    if PINNED in shown.channels_of(place):
        return "pin rule"
    if answer.propensities[place] < 1:
        return "exploration"
    return "" if rank is None or rank == place else "diversity"


def _features(names: tuple[str, ...], candidates: Candidates, i: int) -> Mapping[str, float]:
    if candidates.features.shape[1] != len(names):  # not hydrated: the stage is in `degraded`
        return {}
    return dict(zip(names, candidates.features[i].tolist(), strict=True))


def _removed(catalogue: Catalogue, rows: Rows, title: Title) -> dict[str, Any]:
    items = [catalogue.item(row) for row in rows[:MAX_REMOVED].tolist()]
    return {"count": len(rows), "items": [{"item_id": i.item_id, "title": title(i)} for i in items]}
