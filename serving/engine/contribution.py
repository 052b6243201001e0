"""What moved a score: the served ranker is asked again with one input at a time left out.

Occlusion: a feature's columns take the values of an unknown user and an unknown item, and the item is scored again; the
difference is the feature's contribution. Contributions need not add up to the score: features act together, and two
that carry the same information stand in for each other.

An item is in the list rather than another because of what differs between them. So its *reasons* leave out every
feature that has the same value for all candidates of the request, however much that feature moves the score.
"""

from collections.abc import Collection, Mapping
from functools import lru_cache

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from recsys.contracts.request import Candidates, Query
from recsys.contracts.state import EntityState
from recsys.contracts.types import Item
from recsys.features.assemble import assemble
from recsys.features.definitions import FEATURES
from recsys.features.item_columns import ItemColumns
from recsys.pipeline.stages import Scorer

HISTORY, ITEM, TASTE = "history", "item", "taste"  # inputs of the model besides the features
_UNKNOWN_ROW = np.iinfo(np.int32).max  # the ranker knows no such item


def contributions(scorer: Scorer, query: Query, shown: Candidates) -> dict[str, NDArray[np.float32]]:
    """(n,) of the value of each shown item, by feature name, `HISTORY`, `ITEM`, and `TASTE` if the ranker has a
    taste model; empty without features.

    Args:
        scorer: the ranker's stage; called three times with n · (number of features + 2) candidates at most.
        query: hydrated.
    """
    n = len(shown)
    if not n or shown.features.shape[1] != FEATURES.dimension:
        return {}
    names = [feature.name for feature in FEATURES.features]
    copies = shown.take(np.tile(np.arange(n), len(names) + 2))
    features, rows = copies.features.copy(), copies.rows.copy()
    nobody = _nobody(query.now_ms)
    for i, columns in enumerate(_columns().values(), start=1):
        features[i * n : (i + 1) * n, columns] = nobody[columns]
    rows[-n:] = _UNKNOWN_ROW
    values = scorer.score(query, replace(copies, features=features, rows=rows)).score.reshape(-1, n)
    found = {name: values[0] - values[i] for i, name in enumerate([*names, ITEM], start=1)}
    nothing = np.empty(0, np.int64)
    without = replace(query, history=nothing, types=nothing, gaps=nothing)
    found[HISTORY] = values[0] - scorer.score(without, shown).score
    taste = values[0] - scorer.score(replace(query, user=EntityState()), shown).score
    if taste.any():  # the tally is all that a scorer reads of the user's state
        found[TASTE] = taste
    return found


def shared_by(candidates: Candidates) -> list[str]:
    """Names of the inputs that are the same for all candidates: the user's `HISTORY` and features of one value."""
    values = candidates.features
    if values.shape[1] != FEATURES.dimension:
        return []
    same = (values == values[:1]).all(axis=0)
    return [HISTORY, *(name for name, columns in _columns().items() if same[columns].all())]


def reasons(contribution: Mapping[str, float], shared: Collection[str]) -> list[str]:
    """Names of the inputs that set one item apart from the other candidates, the strongest first.

    >>> reasons({"hour": 0.6, "item_clicks": -0.2, "item": 0.3, "price": 0.0}, shared=["hour"])
    ['item', 'item_clicks']
    """
    differing = (name for name, share in contribution.items() if share and name not in shared)
    return sorted(differing, key=lambda name: -abs(contribution[name]))


@lru_cache(maxsize=1)
def _columns() -> Mapping[str, list[int]]:
    return {f.name: [FEATURES.column(name) for name in f.columns] for f in FEATURES.features}


def _nobody(now_ms: int) -> NDArray[np.float32]:
    """(D,) the features of an unknown user and an item of which nothing is known."""
    columns, row = ItemColumns([Item("")], FEATURES), np.zeros(1, np.int32)
    return assemble(FEATURES, EntityState(), {}, columns, row, now_ms, {}).reshape(-1)
