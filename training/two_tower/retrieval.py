"""Score users against the whole catalogue, for validation and evaluation."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.metrics import ranks_of
from recsys.models.encoding import encode_arrays
from recsys.models.two_tower import ItemTable, TwoTower
from training.two_tower.batches import Targets
from training.two_tower.sequences import Cut, History, Profiles

# histories, and the time each is asked at → (n, n_items) float32 scores
Scorer = Callable[[Sequence[History], Sequence[int]], NDArray[np.float32]]


@dataclass(frozen=True)
class Cases:
    """Test cases: given this history at that time, which item came next?"""

    histories: Sequence[History]
    targets: NDArray[np.int64]  # (n,) item rows
    now_ms: Sequence[int]
    repeats: bool = False  # an item of the history may be the next one

    def __len__(self) -> int:
        return len(self.histories)

    def sample(self, n: int, seed: int) -> "Cases":
        """At most `n` of them, at random."""
        at = np.random.default_rng(seed).permutation(len(self))[:n]
        histories, now_ms = [self.histories[i] for i in at], [self.now_ms[i] for i in at]
        return Cases(histories, self.targets[at], now_ms, self.repeats)


def cases_after(histories: Iterable[History], cut: Cut, wanted: int = 0, repeats: bool = False) -> Cases:
    """A case for each item that is new to the user after the cut, with all events before it.

    Args:
        cut: how many events of a history come before the first case.
        wanted, repeats: as in `Targets`.
    """
    asked, rng = Targets(repeats, wanted), np.random.default_rng(0)
    at = [(h, i) for h in histories for i in np.flatnonzero(asked.of(h, rng)).tolist() if i >= cut(h)]
    targets = np.array([h.numbers[i] - 1 for h, i in at], np.int64)
    return Cases([h.before(i) for h, i in at], targets, [int(h.times[i]) for h, i in at], repeats)


def two_tower_scorer(model: TwoTower, max_length: int, profiles: Profiles | None = None) -> Scorer:
    """Scores of the newest position of each history, which is the one that is served."""
    model.eval()

    @torch.inference_mode()
    def scores(histories: Sequence[History], now_ms: Sequence[int]) -> NDArray[np.float32]:
        table = ItemTable(model.items)
        longest = max(1, *(min(len(h.numbers), max_length) for h in histories))
        encoded = [
            encode_arrays(h.numbers, h.types, h.times, now, longest)
            for h, now in zip(histories, now_ms, strict=True)
        ]
        device = table.all_vectors().device
        arrays = [*map(np.stack, zip(*encoded, strict=True)), (profiles or Profiles()).of(histories)]
        inputs = (torch.from_numpy(array).to(device) for array in arrays)
        users = model(*inputs, items=table)[:, -1]
        return np.asarray((users @ table.all_vectors()[1:].T).cpu().numpy(), np.float32)

    return scores


def scored(
    scorer: Scorer, cases: Cases, batch: int = 128
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield places of cases and their scores, in batches of similar length. The history's own items are -inf, unless
    they may be the next ones."""
    by_length = np.argsort([len(h.numbers) for h in cases.histories], kind="stable")
    for start in range(0, len(cases), batch):
        places = by_length[start : start + batch]
        chosen = [cases.histories[p] for p in places]
        scores = scorer(chosen, [cases.now_ms[p] for p in places])
        for row, history in enumerate(() if cases.repeats else chosen):
            scores[row, history.numbers - 1] = -np.inf
        yield places, scores


def next_item_ranks(scorer: Scorer, cases: Cases) -> NDArray[np.int64]:
    """The rank of each case's item in the full catalogue, without the seen items unless they may return."""
    ranks = np.zeros(len(cases), np.int64)
    for places, scores in scored(scorer, cases):
        ranks[places] = ranks_of(scores, cases.targets[places])
    return ranks
