"""Students with random weights."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from recsys.models.compact import quantize_tables
from recsys.models.ranker import Ranker, RankerData
from training.compression.ladder import STUDENT


def student(seed: int, n_items: int = 300, n_features: int = 75, **changes: Any) -> Ranker:
    """With weights large enough for every part to matter."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    sizes = (300, 7)
    fields = torch.from_numpy(np.stack([rng.integers(0, size, n_items + 1) for size in sizes], axis=1))
    data = RankerData(
        n_items=n_items,
        n_features=n_features,
        mean=torch.from_numpy(rng.normal(2, 1, n_features)).float(),
        scale=torch.from_numpy(rng.uniform(0, 2, n_features) * (rng.random(n_features) > 0.1)).float(),
        edges=torch.zeros(n_features, STUDENT.bins + 1),
        fields=fields,
        field_sizes=sizes,
    )
    ranker = Ranker(replace(STUDENT, **({"item_buckets": 500} | changes)), data).eval()
    for module in ranker.modules():
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight, std=0.5)
    quantize_tables(ranker, bits=8)
    return ranker
