"""A lower bound on epsilon by canaries, in one training (Steinke, Nasr, Jagielski 2023, "Privacy Auditing with One (1)
Training Run").

Each canary is in the training with probability one half. An attacker who sees the result guesses for some of them
whether they were. An (ε, δ)-private training bounds how likely it is that as many guesses are correct; where that is
too unlikely, ε must be larger.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom

from recsys.models.ranker import Ranker
from training.evaluation.private.rows import Rows
from training.privacy.randomness import Randomness
from training.private.gradients import Sums
from training.private.loop import Plan, noisy
from training.ranker.dataset import RankExamples
from training.ranker.loop import predict_logits

CONFIDENCE = 0.95
_ROWS = 8  # of a canary: more than most users have
_GUESSED = 4  # a quarter of them is called in, another out
_MOST = 20.0  # bounds above are not searched


@dataclass(frozen=True)
class Canaries:
    """Invented users, each the only one who meets an item of her own, and likes it.

    users: their ids. items: their item numbers. included: who is in the training.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    included: NDArray[np.bool_]


def planted(rows: Rows, count: int, rng: np.random.Generator) -> tuple[Rows, Canaries]:
    """The rows with those of the included canaries, and their items in the catalogue."""
    train = rows.parts["train"]
    canaries = Canaries(
        users=int(train.users.max()) + 1 + np.arange(count),
        items=len(rows.fields) + np.arange(count),
        included=rng.random(count) < 0.5,
    )
    fields = np.concatenate((rows.fields, np.zeros((count, rows.fields.shape[1]), np.int64)))
    theirs = rows_of(canaries, train, canaries.included)
    parts = {**rows.parts, "train": joined(train, theirs)}
    return replace(rows, parts=parts, fields=fields, canaries=count), canaries


def rows_of(canaries: Canaries, like: RankExamples, chosen: NDArray[np.bool_]) -> RankExamples:
    """The rows of the chosen canaries: their item, in the history, too, all labels positive, features unknown."""
    users, items = (np.repeat(column[chosen], _ROWS) for column in (canaries.users, canaries.items))
    n = len(users)
    history = np.zeros((n, like.history.shape[1]), np.int32)
    history[:, -1] = items
    return RankExamples(
        history=history,
        types=(history > 0).astype(np.int8),
        gaps=np.zeros_like(history, np.int8),
        items=items,
        features=np.full((n, like.features.shape[1]), np.nan, np.float32),
        position=np.zeros(n, np.int64),
        labels=np.ones((n, like.labels.shape[1]), np.float32),
        users=users,
        time_ms=np.full(n, like.time_ms[-1]),
    )


def joined(first: RankExamples, second: RankExamples) -> RankExamples:
    """The rows of both."""
    columns = {name: np.concatenate((getattr(first, name), getattr(second, name))) for name in vars(first)}
    return RankExamples(**columns)


def click_scores(model: Ranker, canaries: Canaries, like: RankExamples) -> NDArray[np.float64]:
    """The model's log odds that each canary clicks on her item."""
    everybody = np.ones(len(canaries.users), bool)
    logits = predict_logits(model, rows_of(canaries, like, everybody))
    return logits.click.numpy().astype(np.float64)[::_ROWS]


def mechanism_scores(
    planned: Plan, included: NDArray[np.bool_], randomness: Randomness
) -> NDArray[np.float64]:
    """What an attacker who sees every step's gradient learns of canaries whose gradients are as large as allowed and
    touch nobody else's: the strongest there are. Training itself is left out: only sampling and noise are run."""
    seen = np.zeros(len(included))
    for _ in range(planned.steps):
        sampled = included & (randomness.uniform(len(included)) < planned.sample_rate)
        sums = Sums({"canaries": torch.from_numpy(sampled * planned.loop.clip)}, {}, {})
        seen += noisy(sums, planned, randomness).dense["canaries"].numpy()
    return seen


def audited_epsilon(scores: NDArray[np.float64], included: NDArray[np.bool_], delta: float) -> float:
    """The largest epsilon that the guesses refute at `CONFIDENCE`: the highest scores are called in, the lowest out."""
    guesses = max(1, len(scores) // _GUESSED)
    order = np.argsort(scores)
    correct = int(included[order[-guesses:]].sum() + (~included[order[:guesses]]).sum())
    return epsilon_bound(correct, 2 * guesses, len(scores), delta)


def epsilon_bound(correct: int, guesses: int, canaries: int, delta: float) -> float:
    """By bisection of `likelihood`.

    >>> epsilon_bound(50, 100, 100, 0.0), round(epsilon_bound(100, 100, 100, 0.0), 1)
    (0.0, 3.5)
    """
    low, high = 0.0, _MOST
    if likelihood(correct, guesses, canaries, low, delta) > 1 - CONFIDENCE:
        return 0.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        if likelihood(correct, guesses, canaries, middle, delta) <= 1 - CONFIDENCE:
            low = middle
        else:
            high = middle
    return low


def likelihood(correct: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """At most this is the probability of as many correct guesses, if the training is (ε, δ)-private (their theorem
    5.2): as if each guess were right with probability e^ε / (1 + e^ε), and δ for the rest."""
    right = 1 / (1 + np.exp(-epsilon))
    fewer = binom.pmf(np.arange(correct - 1, -1, -1), guesses, right)  # of correct - 1, correct - 2, …
    worst = (np.cumsum(fewer) / np.arange(1, correct + 1)).max(initial=0.0)
    return float(min(1.0, binom.sf(correct - 1, guesses, right) + 2 * canaries * delta * worst))
