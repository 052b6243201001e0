"""What moved a score: the served ranker asked again, without one thing at a time.

Occlusion: a feature's columns are set to what they are for an unknown user and an unknown item, and the item's value is
computed anew; the difference is the feature's contribution. Differences need not add up to the score: features act
together, and two that say the same thing stand in for each other.
"""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from recsys.contracts.request import Candidates, Query
from recsys.contracts.types import Item
from recsys.features.assemble import assemble
from recsys.features.definitions import FEATURES
from recsys.features.item_columns import ItemColumns
from recsys.features.state import EntityState
from recsys.pipeline.stages import Scorer

HISTORY, ITEM = "history", "item"  # beside the features: what the model reads of the user and the item itself
_UNKNOWN_ROW = np.iinfo(np.int32).max  # the ranker knows no such item


def contributions(scorer: Scorer, query: Query, shown: Candidates) -> dict[str, NDArray[np.float32]]:
    """(n,) of the value of each shown item, by feature name, `HISTORY` and `ITEM`; empty without features.

    Args:
        scorer: the ranker's stage; called twice with n · (number of features + 2) candidates at most.
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
    return found


@lru_cache(maxsize=1)
def _columns() -> Mapping[str, list[int]]:
    """Feature → its columns."""
    return {
        feature.name: [FEATURES.column(name) for name in feature.columns] for feature in FEATURES.features
    }


def _nobody(now_ms: int) -> NDArray[np.float32]:
    """(D,) the features of an unknown user and an item of which nothing is known."""
    columns, row = ItemColumns([Item("")], FEATURES), np.zeros(1, np.int32)
    return assemble(FEATURES, EntityState(), {}, columns, row, now_ms, {}).reshape(-1)
