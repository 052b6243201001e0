"""`recsys ab off-policy`: estimate one policy's value from the log of another, and compare with the truth. *Simulated.*

A policy draws the first position of a list from ten items by a softmax over a score: the logging policy by age, nearly
at random; the new one by affinity of taste, sharply. The log has propensities and clicks; the truth is the new policy's
mean click probability in the same contexts, which only a simulation knows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.experiments.off_policy import Estimate, Log, doubly_robust, ips, snips
from recsys.result import Goal, Result
from recsys.simulation.behavior import Behavior
from recsys.simulation.world import World, WorldConfig, create_world

Floats = NDArray[np.float64]
_CHOICES = 10
_COVERED = 3.0  # standard errors within which an estimate should be


@dataclass(frozen=True)
class OffPolicy:
    """`rows`: logged decisions."""

    seed: int = 0
    rows: int = 20_000


def run(config: OffPolicy) -> Result:
    """Estimate, with errors and intervals; the goal is that each is within three standard errors of the truth."""
    world = create_world(WorldConfig(seed=config.seed, users=2_000, items=1_000))
    rng = np.random.default_rng(config.seed)
    users, choices, attraction = _contexts(world, config.rows, rng)
    logged = _softmax(-0.3 * np.log1p(choices.astype(np.float64)))  # older items a little more often
    affinity = np.einsum("nkd,nd->nk", world.item_vector[choices], world.user_taste[users])
    new = _softmax(3.0 * affinity)
    taken = (logged.cumsum(1) < rng.random((config.rows, 1))).sum(1).clip(max=_CHOICES - 1)
    at = np.arange(config.rows)
    reward = (rng.random(config.rows) < attraction[at, taken]).astype(np.float64)
    log = Log(reward, logged[at, taken], new[at, taken])
    model = _reward_model(affinity, taken, reward)
    truth = float((new * attraction).sum(1).mean())
    found: dict[str, Estimate] = {
        "ips": ips(log),
        "snips": snips(log),
        "doubly_robust": doubly_robust(log, model[at, taken], (new * model).sum(1)),
    }
    figures = {
        "truth": truth,
        "logged_mean": float(reward.mean()),
        "effective_rows": found["ips"].effective_rows,
    }
    goals = {}
    for name, estimate in found.items():
        error = (estimate.high - estimate.low) / (2 * 1.96)
        figures |= {
            name: estimate.value,
            f"{name}_low": estimate.low,
            f"{name}_high": estimate.high,
            f"{name}_error": estimate.value - truth,
            f"{name}_errors_away": abs(estimate.value - truth) / error,
        }
        goals[f"{name}_errors_away"] = Goal("<=", _COVERED)
    return Result("ab off-policy", config.seed, figures, goals)


def _contexts(
    world: World, rows: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """(n,) users, (n, 10) candidate items, (n, 10) their true click probabilities."""
    behavior = Behavior(world)
    users = rng.integers(0, world.config.users, rows)
    alive = world.alive(world.config.start_ms)
    choices = rng.choice(alive, (rows, _CHOICES))
    attraction = np.stack(
        [
            behavior.attraction(behavior.visitor(user), shown, world.config.start_ms)
            for user, shown in zip(users.tolist(), choices, strict=True)
        ]
    )
    return users, choices, attraction.astype(np.float64)


def _reward_model(affinity: Floats, taken: NDArray[np.int64], reward: Floats) -> Floats:
    """(n, 10) click rate by ten bins of affinity, from the logged rows: crude, as reward models are."""
    edges = np.quantile(affinity, np.linspace(0.1, 0.9, 9))
    bins = np.digitize(affinity, edges)
    of_taken = bins[np.arange(len(taken)), taken]
    rate = np.bincount(of_taken, reward, 10) / np.maximum(np.bincount(of_taken, minlength=10), 1)
    return np.asarray(rate[bins])


def _softmax(scores: Floats) -> Floats:
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
