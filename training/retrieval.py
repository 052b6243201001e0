"""Score users against the whole catalogue, in batches of like length: for validation and for evaluation."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.metrics import ranks_of
from recsys.models.encoding import encode_arrays
from recsys.models.two_tower import ItemTable, TwoTower
from training.dataset import History

# histories, and when each is asked → (n, n_items) float32 scores
Scorer = Callable[[Sequence[History], Sequence[int]], NDArray[np.float32]]


def two_tower_scorer(model: TwoTower, max_length: int) -> Scorer:
    """Scores of the served position: the newest of each history."""
    model.eval()

    @torch.inference_mode()
    def scores(histories: Sequence[History], now_ms: Sequence[int]) -> NDArray[np.float32]:
        table = ItemTable(model.items)
        longest = max(1, *(min(len(h.numbers), max_length) for h in histories))
        encoded = [
            encode_arrays(h.numbers, h.types, h.times, now, longest)
            for h, now in zip(histories, now_ms, strict=True)
        ]
        inputs = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*encoded, strict=True))
        users = model(*inputs, items=table)[:, -1]
        return np.asarray((users @ table.all_vectors()[1:].T).numpy(), np.float32)

    return scores


def scored(
    scorer: Scorer,
    histories: Sequence[History],
    now_ms: Sequence[int],
    hide_seen: bool = True,
    batch: int = 128,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yields which histories (their places) and their scores; items already in the history are -inf."""
    by_length = np.argsort([len(h.numbers) for h in histories], kind="stable")
    for start in range(0, len(histories), batch):
        places = by_length[start : start + batch]
        chosen = [histories[p] for p in places]
        scores = scorer(chosen, [now_ms[p] for p in places])
        if hide_seen:
            for row, history in enumerate(chosen):
                scores[row, history.numbers - 1] = -np.inf
        yield places, scores


def next_item_ranks(
    scorer: Scorer,
    histories: Sequence[History],
    targets: NDArray[np.int64],
    now_ms: Sequence[int],
    hide_seen: bool = True,
) -> NDArray[np.int64]:
    """The rank of each history's next item (its row) in the full catalogue, seen items left out."""
    ranks = np.zeros(len(histories), np.int64)
    for places, scores in scored(scorer, histories, now_ms, hide_seen):
        ranks[places] = ranks_of(scores, targets[places])
    return ranks
