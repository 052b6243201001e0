"""Remove bots and broken labels from the training rows, and count what was removed. Validation and test keep all rows.

Rules first: what no person does. Then users whose rates are isolated (isolation forest, Liu et al. 2008); of these only
the ones that are extreme in a single rate, too, so that a merely unusual person stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sklearn.ensemble import IsolationForest

from recsys.contracts.types import MS_PER_MINUTE, Head
from training.config import Config
from training.ranker.dataset import RankExamples


class Cleaning(Config):
    """What counts as impossible."""

    shown_per_minute: int = Field(120, ge=1, description="More impressions within a minute are a bot's.")
    always_clicks: int = Field(
        50, ge=1, description="A user with as many impressions, all clicked, is a bot."
    )
    isolated_share: float = Field(
        0.002, ge=0, le=1, description="At most this share of the users is removed as isolated."
    )
    extreme: float = Field(
        8.0, gt=0, description="Robust standard deviations that one of their rates is off."
    )
    least_rows: int = Field(20, ge=0, description="Users with fewer rows are not judged by their rates.")
    seed: int = Field(0, ge=0, description="Of the isolation forest.")


@dataclass(frozen=True)
class Cleaned:
    """The rows that are left, and the number of removed or corrected ones by reason."""

    examples: RankExamples
    removed: Mapping[str, int]
    corrected: Mapping[str, int]


def clean(examples: RankExamples, config: Cleaning) -> Cleaned:
    """Apply the rules, then isolation among the rest. The order of the rows is preserved."""
    keep = np.ones(len(examples), bool)
    removed = {}
    for reason, rows in (
        ("repeated", _repeated(examples)),
        ("shown too fast", _too_fast(examples, config.shown_per_minute)),
        ("clicks everything", _always_clicks(examples, config.always_clicks)),
    ):
        removed[reason] = int((rows & keep).sum())
        keep &= ~rows
    isolated = _isolated(examples.take(keep), config)
    rows = keep & np.isin(examples.users, isolated)
    removed["isolated rates"] = int(rows.sum())
    left, corrected = _corrected(examples.take(keep & ~rows))
    return Cleaned(left, removed, corrected)


def _repeated(examples: RankExamples) -> NDArray[np.bool_]:
    """Later rows of the same user, item and instant. Unknown items may well be different ones."""
    keys = np.stack([examples.users, examples.items, examples.time_ms], axis=1)
    _, first = np.unique(keys, axis=0, return_index=True)
    repeated = examples.items > 0
    repeated[first] = False
    return repeated


def _too_fast(examples: RankExamples, limit: int) -> NDArray[np.bool_]:
    """All rows of users who were shown more than `limit` items within a minute of the clock."""
    keys = np.stack([examples.users, examples.time_ms // MS_PER_MINUTE], axis=1)
    minutes, counts = np.unique(keys, axis=0, return_counts=True)
    return np.isin(examples.users, minutes[counts > limit, 0])


def _always_clicks(examples: RankExamples, least: int) -> NDArray[np.bool_]:
    users, rows, rates = _rates(examples)
    return np.isin(examples.users, users[(rows >= least) & (rates[:, 0] == 1)])


def _isolated(examples: RankExamples, config: Cleaning) -> NDArray[np.int64]:
    users, rows, rates = _rates(examples)
    judged = rows >= config.least_rows
    if judged.sum() < 50:  # nobody to compare with
        return np.zeros(0, np.int64)
    columns = np.column_stack([np.log1p(rows[judged]), rates[judged]])
    middle = np.median(columns, axis=0)
    spread = 1.4826 * np.median(np.abs(columns - middle), axis=0)
    extreme = (np.abs(columns - middle) > config.extreme * np.maximum(spread, 1e-3)).any(axis=1)
    forest = IsolationForest(random_state=config.seed).fit(columns)
    furthest = np.argsort(forest.score_samples(columns))[: int(np.ceil(config.isolated_share * judged.sum()))]
    return np.asarray(users[judged][furthest[extreme[furthest]]])


def _rates(examples: RankExamples) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Users, their rows, and their mean labels (click, conversion, like, log1p dwell)."""
    users, place, rows = np.unique(examples.users, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(place, column, len(users)) for column in examples.labels.T], axis=1)
    return users, rows, sums / rows[:, None]


def _corrected(examples: RankExamples) -> tuple[RankExamples, dict[str, int]]:
    """Who liked has clicked, also where the click was lost."""
    labels = examples.labels.copy()
    click, like = (tuple(Head).index(head) for head in (Head.CLICK, Head.LIKE))
    lost = (labels[:, like] > 0) & (labels[:, click] == 0)
    labels[lost, click] = 1.0
    return replace(examples, labels=labels), {"liked without a click": int(lost.sum())}
