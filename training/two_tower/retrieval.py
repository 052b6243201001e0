"""Score users against the whole catalogue, for validation and evaluation."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.metrics import NO_ITEM, ranks_of
from recsys.models.encoding import encode_arrays
from recsys.models.two_tower import ItemTable, TwoTower
from training.two_tower.batches import Targets
from training.two_tower.sequences import Cut, History, Profiles

# histories, and the time each is asked at → (n, n_items) float32 scores
Scorer = Callable[[Sequence[History], Sequence[int]], NDArray[np.float32]]


_CASES_AT_A_TIME = 128
_PAIRS_AT_A_TIME = 128 * 200**2  # of positions that attend to each other: 20 MiB of float32 per head
_SCORES_AT_A_TIME = 2**24  # 64 MiB of float32; argpartition takes twice as much for its indices


@dataclass(frozen=True)
class Cases:
    """Test cases: given this history at that time, which items came next?"""

    histories: Sequence[History]
    targets: Sequence[NDArray[np.int64]]  # of each case, (T,) item rows, T ≥ 1, each once
    now_ms: Sequence[int]
    repeats: bool = False  # an item of the history may be the next one

    def __len__(self) -> int:
        return len(self.histories)

    def sample(self, n: int, seed: int) -> "Cases":
        """At most `n` of them, at random."""
        at = np.random.default_rng(seed).permutation(len(self))[:n]
        histories, targets = [self.histories[i] for i in at], [self.targets[i] for i in at]
        return Cases(histories, targets, [self.now_ms[i] for i in at], self.repeats)


def cases_after(histories: Iterable[History], cut: Cut, wanted: int = 0, repeats: bool = False) -> Cases:
    """A case for each item that is new to the user after the cut, with all events before it.

    Args:
        cut: how many events of a history come before the first case.
        wanted, repeats: as in `Targets`.
    """
    asked, rng = Targets(repeats, wanted), np.random.default_rng(0)
    at: list[tuple[History, int]] = []
    for h in histories:
        first = cut(h)
        at += [(h, i) for i in np.flatnonzero(asked.of(h, rng)).tolist() if i >= first]
    targets = [h.numbers[i : i + 1] - 1 for h, i in at]
    return Cases([h.before(i) for h, i in at], targets, [int(h.times[i]) for h, i in at], repeats)


def two_tower_scorer(model: TwoTower, max_length: int, profiles: Profiles | None = None) -> Scorer:
    """Scores of the newest position of each history, which is the one that is served."""
    model.eval()

    @torch.inference_mode()
    def scores(histories: Sequence[History], now_ms: Sequence[int]) -> NDArray[np.float32]:
        longest = max(1, *(min(len(h.numbers), max_length) for h in histories))
        table, at_a_time = ItemTable(model.items), max(_PAIRS_AT_A_TIME // longest**2, 1)
        starts = range(0, len(histories), at_a_time)
        parts = [slice(start, start + at_a_time) for start in starts]
        return np.concatenate([some(histories[part], now_ms[part], longest, table) for part in parts])

    def some(
        histories: Sequence[History], now_ms: Sequence[int], longest: int, table: ItemTable
    ) -> NDArray[np.float32]:
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
    scorer: Scorer, cases: Cases, n_items: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield places of cases and their scores, in batches of similar length, smaller ones for a large catalogue. The
    history's own items are -inf, unless they may be the next ones."""
    batch = min(max(_SCORES_AT_A_TIME // max(n_items, 1), 1), _CASES_AT_A_TIME)
    by_length = np.argsort([len(h.numbers) for h in cases.histories], kind="stable")
    for start in range(0, len(cases), batch):
        places = by_length[start : start + batch]
        chosen = [cases.histories[p] for p in places]
        scores = scorer(chosen, [cases.now_ms[p] for p in places])
        for row, history in enumerate(() if cases.repeats else chosen):
            scores[row, history.numbers - 1] = -np.inf
        yield places, scores


def target_ranks(scores: NDArray[np.float32], targets: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """(n, T): the ranks of each case's items, as `recsys.metrics.ranks_of` has them; `NO_ITEM` behind the last."""
    padded = np.full((len(targets), max(map(len, targets), default=1)), NO_ITEM, np.int64)
    for row, own in zip(padded, targets, strict=True):
        row[: len(own)] = own
    return ranks_of(scores, padded)


def next_item_ranks(scorer: Scorer, cases: Cases, n_items: int) -> NDArray[np.int64]:
    """(n,): rank of each case's first item in the full catalogue, without the seen items unless they may return."""
    ranks = np.zeros(len(cases), np.int64)
    for places, scores in scored(scorer, cases, n_items):
        ranks[places] = target_ranks(scores, [cases.targets[p][:1] for p in places])[:, 0]
    return ranks
