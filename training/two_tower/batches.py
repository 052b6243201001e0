"""Histories → padded batches of similar length, the same for the same (seed, epoch)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.types import MS_PER_SECOND
from recsys.models.encoding import EncodedHistory, encode_arrays
from training.two_tower.augment import Augmenter
from training.two_tower.repeats import visits
from training.two_tower.sequences import Cut, History, Profiles, SequenceFiles

SAME_MOMENT_MS = MS_PER_SECOND


class Batch(NamedTuple):
    """Inputs and each position's next item: (B, L) int64, left-padded; target 0: none.

    profile: (B, PROFILE_SLOTS) int64.
    """

    history: NDArray[np.int64]
    types: NDArray[np.int64]
    gaps: NDArray[np.int64]
    targets: NDArray[np.int64]
    profile: NDArray[np.int64]

    @property
    def n_targets(self) -> int:
        return int(np.count_nonzero(self.targets))

    def shard(self, rank: int, world: int) -> "Batch":
        """The rows of one of `world` processes."""
        return Batch(*(array[rank::world] for array in self))


@dataclass(frozen=True)
class Targets:
    """Which events of a history are predicted.

    Only an item's first event is: serving filters seen items out, and the click, like and purchase of one exposure
    would teach the model to repeat the newest item.

    repeats: also the events by which the user comes back to an item (`training.two_tower.repeats`).
    wanted: event type number; only items that got such an event within `SAME_MOMENT_MS` of that one are
        targets (a long view follows its click). 0: any type.
    half_life_ms: an event this long before `newest_ms` is a target in every second epoch only, one twice as long
        before in every fourth, and so on, because tastes change. 0: every event, always.
    newer_than_ms: events up to this time are no targets, only history.
    """

    repeats: bool = False
    wanted: int = 0
    half_life_ms: float = 0.0
    newest_ms: int = 0
    newer_than_ms: int = 0

    def of(self, history: History, rng: np.random.Generator) -> NDArray[np.bool_]:
        """(n,) bool."""
        n = len(history.numbers)
        begins, returns = visits(history)
        chosen = begins if self.repeats else begins & ~returns
        if self.wanted:
            begun = _latest(chosen, history.numbers)  # where the visit of each event began
            at_once = history.times - history.times[begun] < SAME_MOMENT_MS
            chosen = np.zeros(n, np.bool_)
            chosen[begun[at_once & (history.types == self.wanted)]] = True
        if self.half_life_ms:
            age = np.maximum(self.newest_ms - history.times, 0)
            chosen &= rng.random(n) < 0.5 ** (age / self.half_life_ms)
        if self.newer_than_ms:
            chosen &= history.times > self.newer_than_ms
        return chosen


def _latest(begins: NDArray[np.bool_], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) the place of the latest beginning of each event's item up to this event; an item's first event begins."""
    order = np.argsort(numbers, kind="stable")
    latest = np.empty(len(numbers), np.int64)
    latest[order] = order[np.maximum.accumulate(np.where(begins[order], np.arange(len(order)), 0))]
    return latest


def make_batch(
    histories: Sequence[History],
    max_length: int,
    targets_of: Targets | None = None,
    rng: np.random.Generator | None = None,
    profiles: Profiles | None = None,
) -> Batch:
    """Each target is predicted from the events before it, the first one from an empty history."""
    chosen, rng = targets_of or Targets(), rng or np.random.default_rng(0)
    length = min(max(len(h.numbers) for h in histories), max_length)
    targets = np.zeros((len(histories), length), np.int64)
    encoded: list[EncodedHistory] = []
    for row, h in enumerate(histories):
        n = min(len(h.numbers), length)
        targets[row, -n:] = np.where(chosen.of(h, rng), h.numbers, 0)[-n:]
        encoded.append(encode_arrays(h.numbers[:-1], h.types[:-1], h.times[:-1], int(h.times[-1]), length))
    history, types, gaps = (np.stack(arrays) for arrays in zip(*encoded, strict=True))
    return Batch(history, types, gaps, targets, (profiles or Profiles()).of(histories))


class Windows(StrEnum):
    """Which parts of a history longer than a batch's width an epoch trains on."""

    ALL = "all"  # consecutive windows, so that every event is a target once
    NEWEST = "newest"  # the newest window only, so that no user counts for more


@dataclass(frozen=True)
class BatchPlan:
    """How histories become batches. `tokens`: positions per batch, padding included."""

    max_length: int
    tokens: int
    windows: Windows = Windows.ALL
    targets: Targets = Targets()
    profiles: Profiles | None = None
    shuffled_users: int = 8192  # in memory at a time
    pooled_users: int = 1024  # of which histories of similar length share a batch


def epoch_batches(
    files: SequenceFiles, cut: Cut, plan: BatchPlan, seed: int, epoch: int, augment: Augmenter | None = None
) -> Iterator[tuple[Batch, int]]:
    """One epoch's batches, each with the number of histories read so far. `augment` comes before the cut to length."""
    rng = np.random.default_rng((seed, epoch))
    seen = 0
    histories = files.read(rng)
    while pool := list(islice(histories, plan.shuffled_users)):
        order = rng.permutation(len(pool))
        batches: list[list[History]] = []
        for start in range(0, len(pool), plan.pooled_users):
            windows: list[History] = []
            for at in order[start : start + plan.pooled_users]:
                history = pool[at].before(cut(pool[at]))
                if augment is not None:
                    history = augment(history, rng)
                windows += _windows(history, plan)
            batches += _by_length(windows, plan)
        share = len(pool) / max(len(batches), 1)
        for done, at in enumerate(rng.permutation(len(batches)), start=1):
            batch = make_batch(batches[at], plan.max_length, plan.targets, rng, plan.profiles)
            if batch.n_targets:
                yield batch, seen + round(done * share)
        seen += len(pool)


def _windows(history: History, plan: BatchPlan) -> Iterator[History]:
    """The history up to the end of each window; `make_batch` takes the newest `max_length` events of each. Windows
    without an event new enough to be a target are left out."""
    n, newer_than = len(history.numbers), plan.targets.newer_than_ms
    old = int(np.searchsorted(history.times, newer_than, side="right")) if newer_than else 0
    if n > old and plan.windows is Windows.NEWEST:
        yield history
    elif n > old:
        yield from (history.before(end) for end in range(n, old, -plan.max_length))


def _by_length(histories: list[History], plan: BatchPlan) -> list[list[History]]:
    batches: list[list[History]] = []
    histories.sort(key=lambda h: len(h.numbers))
    for history in histories:
        width = min(len(history.numbers), plan.max_length)
        if not batches or (len(batches[-1]) + 1) * width > plan.tokens:
            batches.append([])
        batches[-1].append(history)
    return batches
