"""Small examples with histories, fields, codes and odd values, and a ranker of them."""

import numpy as np
import torch

from recsys.models.blocks import numeric_statistics
from recsys.models.ranker import Ranker, RankerConfig, RankerData
from training.private.ranker import RankerLearner, RankerLoop
from training.ranker.dataset import RankExamples

ITEMS, FEATURES, LENGTH = 30, 4, 6
SMALL = RankerConfig(
    width=4,
    attention_heads=1,
    curve_width=1,
    bins=3,
    cross_layers=1,
    cross_rank=2,
    shared_experts=2,
    expert_layers=(6,),
    tower_layers=(4,),
    dropout=0.0,
    item_dropout=0.0,
)


def rows_of(users: list[int], seed: int = 0) -> RankExamples:
    """One row for each entry, of that user; a click follows feature 0 and the item."""
    rng, n = np.random.default_rng(seed), len(users)
    history = rng.integers(0, ITEMS + 1, (n, LENGTH)).astype(np.int32)
    features = rng.normal(size=(n, FEATURES)).astype(np.float32)
    items = rng.integers(0, ITEMS + 1, n)
    quality = np.sin(np.arange(ITEMS + 1))
    click = rng.random(n) < 1 / (1 + np.exp(-2 * features[:, 0] - quality[items]))
    features[rng.random(n) < 0.1, 1] = np.nan
    return RankExamples(
        history=history,
        types=((history > 0) * rng.integers(1, 4, history.shape)).astype(np.int8),
        gaps=((history > 0) * rng.integers(0, 4, history.shape)).astype(np.int8),
        items=items,
        features=features,
        position=rng.integers(0, 3, n),
        labels=np.stack([click, click & (rng.random(n) < 0.5), click, click * 2.0], 1).astype(np.float32),
        users=np.array(users),
        time_ms=np.arange(n, dtype=np.int64),
    )


def ranker_of(rows: RankExamples, config: RankerConfig = SMALL) -> Ranker:
    torch.manual_seed(0)
    fields = torch.zeros(ITEMS + 1, 2, dtype=torch.int64)
    fields[1:, 0], fields[1:, 1] = torch.arange(ITEMS) % 5, torch.arange(ITEMS) % 3
    statistics = numeric_statistics(torch.from_numpy(rows.features), config.bins)
    return Ranker(config, RankerData(ITEMS, FEATURES, *statistics, fields, (5, 3))).eval()


def learner_of(model: Ranker, rows: RankExamples, most: int = 32) -> RankerLearner:
    return RankerLearner(model, rows, RankerLoop(rows_per_user=most))
