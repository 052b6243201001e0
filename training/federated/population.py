"""The clients: each holds one user's history, and draws from it what one round trains on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.two_tower.batches import Targets
from training.two_tower.sequences import History

LEAST = 2  # different items of a client who trains: one to know, one to predict


class Windows(NamedTuple):
    """Of C clients: item numbers (C, L), left-padded with 0; the places in the window that are predicted (C, T), -1 for
    none. Both int64."""

    history: NDArray[np.int64]
    places: NDArray[np.int64]


class Population:
    """All clients of a simulation. On real devices each would hold its own row of it."""

    def __init__(self, histories: Sequence[History]) -> None:
        """Clients with fewer than `LEAST` different items take no part."""
        rng = np.random.default_rng(0)
        first = [Targets().of(h, rng) for h in histories]
        able = [i for i, new in enumerate(first) if new.sum() >= LEAST]
        self._numbers = np.concatenate([histories[i].numbers for i in able] or [np.zeros(0, np.int64)])
        self._predictable = np.concatenate([first[i] for i in able] or [np.zeros(0, np.bool_)])
        self._bounds = np.cumsum([0, *(len(histories[i].numbers) for i in able)])

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @property
    def events(self) -> int:
        return len(self._numbers)

    def windows(
        self, clients: NDArray[np.int64], length: int, targets: int, rng: np.random.Generator
    ) -> Windows:
        """A random stretch of `length` events of each client, and up to `targets` places in it, drawn evenly."""
        starts, ends = self._bounds[clients], self._bounds[clients + 1]
        sizes = np.minimum(ends - starts, length)
        last = starts + sizes + (rng.random(len(clients)) * (ends - starts - sizes + 1)).astype(np.int64)
        at = last[:, None] - length + np.arange(length)
        inside = at >= starts[:, None]
        at = np.where(inside, at, 0)
        history = np.where(inside, self._numbers[at], 0)
        # the first event of a window has nothing before it
        wanted = self._predictable[at] & inside & (at > (last - sizes)[:, None])
        order = np.where(wanted, rng.random(wanted.shape), 2.0)
        places = np.argpartition(order, min(targets, length - 1), axis=1)[:, :targets]
        chosen = np.take_along_axis(wanted, places, axis=1)
        return Windows(history, np.where(chosen, places, -1))

    def seen_by(self, n_items: int) -> NDArray[np.int64]:
        """(n_items,): how many clients have each item. Real devices would each send a 0 or 1 per item under masks."""
        clients = np.repeat(np.arange(len(self)), np.diff(self._bounds))
        pairs = np.unique(np.stack([clients, self._numbers - 1]), axis=1)
        return np.bincount(pairs[1], minlength=n_items)


def cohort(n_clients: int, rate: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Each client by chance `rate`, independently of the others (Poisson sampling, which privacy accounting assumes);
    in random order."""
    return rng.permutation(np.flatnonzero(rng.random(n_clients) < rate))
