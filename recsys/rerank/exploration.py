"""Which items the exploration places show, and with which probability, so that a log of them judges other policies.

Uniform: each of the pool equally often. Thompson: an item as often as it may be the best of the pool, by what is not
known of it (Thompson 1933; Chapelle, Li 2011). `DRAWS` samples of the pool's values are taken and one of them decides,
so the probability given the samples is exact: how many of them have the item first. A share of uniform draws keeps
every probability above 0, without which a log could not judge a policy that prefers what this one never shows.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from recsys.contracts.types import Exploring

DRAWS = 256
_TINY = 1e-6  # least distance of a probability from 0 and 1

Floats = NDArray[np.float64]


class Exploration(BaseModel):
    """Places of the list whose item is drawn from the pool."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    places: tuple[int, ...] = Field((), description="Places that explore, from 0; ignored beyond the list.")
    pool: int = Field(50, ge=1, description="Number of the best remaining candidates that can be drawn.")
    channels: tuple[str, ...] = Field((), description="Draw only candidates of these channels; empty: any.")
    draw: Exploring = Field(Exploring.UNIFORM, description="uniform or thompson.")
    uniform: float = Field(0.1, gt=0, le=1, description="Of thompson: the share that is drawn uniformly.")


def drawn_uniformly(rng: np.random.Generator, n: int, slots: int) -> tuple[list[int], list[float]]:
    """Without replacement, so each of the n is equally likely at each place."""
    return rng.choice(n, slots, replace=False).tolist(), [1 / n] * slots


def drawn_by_thompson(
    rng: np.random.Generator, worth: Floats, slots: int, uniform: float
) -> tuple[list[int], list[float]]:
    """One place after the other; the probability is that given the places before.

    Args:
        worth: (`DRAWS`, n), of `sampled_worth`.
    """
    left, drawn, probabilities = np.arange(worth.shape[1]), [], []
    for _ in range(slots):
        shares = thompson_shares(worth[:, left], uniform)
        at = int(rng.choice(len(left), p=shares / shares.sum()))
        drawn.append(int(left[at]))
        probabilities.append(float(shares[at]))
        left = np.delete(left, at)
    return drawn, probabilities


def thompson_shares(worth: Floats, uniform: float) -> Floats:
    """(n,) probability of each candidate at one place."""
    n = worth.shape[1]
    firsts = np.bincount(worth.argmax(axis=1), minlength=n)
    return np.asarray(uniform / n + (1 - uniform) * firsts / len(worth), np.float64)


def sampled_worth(
    rng: np.random.Generator,
    value: NDArray[np.floating],
    click: NDArray[np.floating],
    deviation: Floats,
) -> Floats:
    """(`DRAWS`, n) values of candidates whose log odds of a click have these standard deviations; the value changes as
    the probability does."""
    p = np.clip(click.astype(np.float64), _TINY, 1 - _TINY)
    odds = np.log(p) - np.log1p(-p) + deviation * rng.standard_normal((DRAWS, len(p)))
    return np.asarray(value / p / (1 + np.exp(-odds)), np.float64)
