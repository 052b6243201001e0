"""Synthetic impressions of the case study's size, shaped like KuaiRand: a known truth over half a million ids.

For the compression ladder, where the number of ids and the relation between models matter. Popularity is Zipf's, users
have a taste, histories follow it, features are noisy views of the truth, and rates are KuaiRand's (click .44,
conversion .70 of clicks, like .017). Figures from it are labelled *synthetic*.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field

from recsys.contracts.types import MS_PER_DAY, EventType, Head
from recsys.models.encoding import N_GAPS, TYPE_NUMBERS
from training.config import Config
from training.ranker.dataset import ItemFields, RankExamples

Floats = NDArray[np.float64]
FACTORS = 8
CATEGORIES = 64


class LadderData(Config):
    """Size of the data."""

    n_items: int = Field(500_000, description="Item ids.")
    n_creators: int = Field(200_000, description="Creator ids.")
    n_users: int = Field(20_000, description="Users, each with one history.")
    rows: int = Field(160_000, description="Impressions.")
    n_features: int = Field(96, description="Columns, most of them noise.")
    history_length: int = Field(50, description="Events of the longest history.")
    seed: int = Field(0, description="The same seed gives the same data.")

    @classmethod
    def quick(cls, seed: int) -> Self:
        return cls(n_items=20_000, n_creators=5_000, n_users=2_000, rows=20_000, seed=seed)


@dataclass(frozen=True)
class SyntheticWorld:
    """Examples in time order and the items' fields (category, creator)."""

    examples: RankExamples
    fields: ItemFields


def make(config: LadderData) -> SyntheticWorld:
    c, rng = config, np.random.default_rng(config.seed)
    category = rng.integers(0, CATEGORIES, c.n_items + 1)
    creator = rng.integers(0, c.n_creators, c.n_items + 1)
    creator_quality = rng.normal(0, 0.4, c.n_creators)
    centre = rng.normal(0, 1, (CATEGORIES, FACTORS))
    item = (centre[category] + rng.normal(0, 0.6, (c.n_items + 1, FACTORS))) / np.sqrt(FACTORS)
    quality = creator_quality[creator] + rng.normal(0, 0.5, c.n_items + 1)
    user = rng.normal(0, 1, (c.n_users, FACTORS))
    patience = rng.normal(0, 0.7, c.n_users)

    users = rng.integers(0, c.n_users, c.rows)
    items = _zipf(c.n_items, c.rows, rng)
    history = _histories(c, user, item, rng)
    taste = (user[users] * item[items]).sum(1)
    log_odds = {
        Head.CLICK: -0.35 + 0.9 * taste + quality[items] + patience[users],
        Head.CONVERSION: 0.9 + 0.6 * taste + 0.7 * quality[items],
        Head.LIKE: -4.6 + 0.8 * taste + 0.8 * quality[items] + patience[users],
    }
    drawn = {head: rng.random(c.rows) < _sigmoid(x) for head, x in log_odds.items()}
    dwell = np.where(
        drawn[Head.CLICK], 1.5 + 0.5 * taste + 0.4 * quality[items] + rng.normal(0, 0.8, c.rows), 0.3
    ).clip(0, 7)
    labels = {**drawn, Head.CONVERSION: drawn[Head.CLICK] & drawn[Head.CONVERSION], Head.DWELL: dwell}
    examples = RankExamples(
        history=history[users],
        types=np.where(history[users] > 0, TYPE_NUMBERS[EventType.CLICK], 0).astype(np.int8),
        gaps=np.where(history[users] > 0, rng.integers(1, N_GAPS, history[users].shape), 0).astype(np.int8),
        items=items.astype(np.int64),
        features=_features(c, taste, quality[items], patience[users], item[items], user[users], rng),
        position=rng.integers(0, 20, c.rows),
        labels=np.stack([labels[head] for head in Head], axis=1).astype(np.float32),
        users=users.astype(np.int64),
        time_ms=np.sort(rng.integers(0, 14 * MS_PER_DAY, c.rows)),
    )
    codes = np.stack([category, creator], axis=1).astype(np.int64) + 1
    codes[0] = 0
    return SyntheticWorld(examples, ItemFields(codes, (CATEGORIES + 1, c.n_creators + 1)))


def _zipf(n_items: int, size: int, rng: Generator) -> NDArray[np.int64]:
    """Item numbers 1 … n_items with weight 1 / rank, ranks shuffled over the numbers."""
    shares = 1 / np.arange(1, n_items + 1)
    ranks = np.searchsorted(np.cumsum(shares) / shares.sum(), rng.random(size))
    return rng.permutation(n_items)[ranks] + 1


def _histories(c: LadderData, user: Floats, item: Floats, rng: Generator) -> NDArray[np.int32]:
    """(n_users, L): each event is the best liked of four popular items; lengths vary, left-padded with 0."""
    found = np.zeros((c.n_users, c.history_length), np.int32)
    lengths = rng.integers(0, c.history_length + 1, c.n_users)
    for column in range(c.history_length):
        offered = _zipf(c.n_items, 4 * c.n_users, rng).reshape(c.n_users, 4)
        liking = np.einsum("uf,uof->uo", user, item[offered])
        chosen = offered[np.arange(c.n_users), liking.argmax(1)]
        found[:, column] = np.where(column >= c.history_length - lengths, chosen, 0)
    return found


def _features(
    c: LadderData,
    taste: Floats,
    quality: Floats,
    patience: Floats,
    item: Floats,
    user: Floats,
    rng: Generator,
) -> NDArray[np.float32]:
    """Noisy views of the truth, on scales as real counters have (some heavy-tailed), the rest noise."""
    views = [
        _sigmoid(quality + rng.normal(0, 0.7, len(taste))),
        _sigmoid(patience + rng.normal(0, 0.5, len(taste))),
        np.exp(4 + 2 * (quality + rng.normal(0, 1, len(taste)))),
        np.exp(3 + patience + rng.normal(0, 1, len(taste))),
        _sigmoid(taste + rng.normal(0, 1.5, len(taste))),
        *(item.T + rng.normal(0, 0.5, item.T.shape)),
        *(user.T + rng.normal(0, 0.5, user.T.shape)),
    ]
    noise = rng.normal(size=(c.n_features - len(views), len(taste)))
    return np.concatenate([np.stack(views), noise]).T.astype(np.float32)


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))
