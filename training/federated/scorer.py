"""Score users against the whole catalogue, as `training.two_tower.retrieval` does for the two-tower."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.models.encoding import encode_arrays
from recsys.recall.item_vectors import gathered
from training.federated.tower import PooledShape, PooledTower
from training.two_tower.retrieval import Scorer
from training.two_tower.sequences import History


def pooled_scorer(vectors: NDArray[np.float32], shape: PooledShape, length: int) -> Scorer:
    """`vectors` (n_items, d); the newest `length` events of a history are read."""
    tower = PooledTower(shape)

    @torch.inference_mode()
    def scores(histories: Sequence[History], now_ms: Sequence[int]) -> NDArray[np.float32]:
        encoded = [
            encode_arrays(h.numbers, h.types, h.times, now, length)
            for h, now in zip(histories, now_ms, strict=True)
        ]
        history, types, gaps = (np.stack(arrays) for arrays in zip(*encoded, strict=True))
        inputs = (torch.from_numpy(array) for array in (gathered(vectors, history), types, gaps))
        return np.asarray(tower(*inputs).numpy() @ vectors.T, np.float32)

    return scores
