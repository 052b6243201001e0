"""How a simulated user responds to a list.

Examination falls with position (the position-based model of Craswell et al. 2008). A click needs examination and
attraction; dwell is log-normal and depends on the quality; conversions follow clicks. Repeated and similar items lose
attraction. Satisfaction decides whether the session continues and when the user returns.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from recsys.contracts.types import MS_PER_DAY
from recsys.simulation.world import Floats, Ints, World


class BehaviorConfig(BaseModel):
    """Coefficients of the response model, in logits unless stated otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    click_bias: float = Field(-2.6, description="Bias of an item without affinity at the top of the list.")
    taste_weight: float = Field(3.0, description="Weight of the cosine of taste and item.")
    intent_weight: float = Field(1.5, description="Weight of the cosine of session intent and item.")
    quality_weight: float = Field(0.25, description="Weight of the quality visible before the click.")
    novelty_weight: float = Field(0.4, description="Bonus of a new item; halves every three days.")
    repeat_fatigue: float = Field(0.8, description="Penalty per earlier impression of the item.")
    sameness_fatigue: float = Field(0.5, description="Penalty per earlier item of the category in the list.")
    examination: float = Field(
        0.7, description="Position p is examined with probability (1 + p)^-examination."
    )
    drift: float = Field(0.05, ge=0, le=1, description="Share of the interest replaced per session.")
    patience: float = Field(2.0, description="Weight of a list's pleasure in whether the session continues.")
    satisfaction_memory: float = Field(
        0.8, ge=0, lt=1, description="Decay of the moving mean of satisfaction."
    )


@dataclass(slots=True)
class Visitor:
    """One user's state. Each user has a random generator, so the order of users does not matter."""

    row: int
    rng: np.random.Generator
    interest: Floats  # (d,) drifts around the long-term taste
    intent: Floats  # (d,) of this session
    shown: dict[int, int] = field(default_factory=dict)  # item row → times shown
    satisfaction: float = 0.0


@dataclass(frozen=True, slots=True)
class Response:
    """The response to a list of n items; arrays (n,) in list order."""

    examined: NDArray[np.bool_]
    clicked: NDArray[np.bool_]
    dwell_ms: Ints  # 0 without a click
    liked: NDArray[np.bool_]
    added: NDArray[np.bool_]
    purchased: NDArray[np.bool_]
    stays: bool  # the session continues


class Behavior:
    """The response model in one world. Visitors are independent of each other."""

    def __init__(self, world: World, config: BehaviorConfig | None = None) -> None:
        self._world = world
        self._config = config or BehaviorConfig()

    def visitor(self, row: int) -> Visitor:
        """A user at the start of the world."""
        taste = self._world.user_taste[row]
        rng = np.random.default_rng((self._world.config.seed, 2, row))
        return Visitor(row, rng, interest=taste.copy(), intent=taste)

    def begin_session(self, visitor: Visitor) -> None:
        """Let the interest drift, and draw the session's intent: a category near the interest."""
        config, world = self._config, self._world
        noise = visitor.rng.normal(size=visitor.interest.shape) / np.sqrt(len(visitor.interest))
        mixed = (
            (1 - config.drift) * visitor.interest
            + config.drift * noise
            # pulls back to the taste: an Ornstein-Uhlenbeck process
            + config.drift * world.user_taste[visitor.row]
        )
        visitor.interest = (mixed / np.linalg.norm(mixed)).astype(np.float32)
        logits = 4.0 * world.category_vector @ visitor.interest
        weights = np.exp(logits - logits.max())
        category = visitor.rng.choice(len(weights), p=weights / weights.sum())
        visitor.intent = world.category_vector[category]

    def attraction(self, visitor: Visitor, rows: Ints, now_ms: int) -> Floats:
        """(n,) click probability of each item, examined and shown alone: the oracle's score."""
        return _sigmoid(self._logits(visitor, rows, now_ms))

    def respond(self, visitor: Visitor, rows: Ints, now_ms: int) -> Response:
        """Show a list. Updates the visitor's impressions and satisfaction."""
        config, world, rng = self._config, self._world, visitor.rng
        n = len(rows)
        examined = rng.random(n) < (1.0 + np.arange(n)) ** -config.examination
        logits = self._logits(visitor, rows, now_ms) - config.sameness_fatigue * _earlier_of_same(
            world.item_category[rows], examined
        )
        clicked = examined & (rng.random(n) < _sigmoid(logits))

        # experienced after the click
        value = logits - config.click_bias + world.quality[rows]
        seconds = rng.lognormal(0.5 * np.log(world.duration[rows]) + 0.35 * value, 0.6)
        dwell_ms = np.where(clicked, seconds * 1000, 0).astype(np.int64)
        liked = clicked & (rng.random(n) < _sigmoid(value - 4.5))
        expensive = world.price_sensitivity[visitor.row] * np.log(world.price[rows]) / 2
        added = clicked & (rng.random(n) < _sigmoid(value - 2.0 - expensive))
        purchased = added & (rng.random(n) < 0.5)

        for row in rows[examined].tolist():
            visitor.shown[row] = visitor.shown.get(row, 0) + 1
        pleasure = float((clicked * np.tanh(value / 2)).sum())
        memory = config.satisfaction_memory
        visitor.satisfaction = memory * visitor.satisfaction + (1 - memory) * pleasure
        stays = bool(rng.random() < _sigmoid(np.float32(config.patience * pleasure - 0.5)))
        return Response(examined, clicked, dwell_ms, liked, added, purchased, stays)

    def returns(self, visitor: Visitor) -> bool:
        """Whether a planned visit takes place; a dissatisfied user skips more visits."""
        return bool(visitor.rng.random() < _sigmoid(np.float32(1.0 + 3.0 * visitor.satisfaction)))

    def _logits(self, visitor: Visitor, rows: Ints, now_ms: int) -> Floats:
        config, world = self._config, self._world
        vectors = world.item_vector[rows]
        age_days = np.maximum(now_ms - world.born_ms[rows], 0) / MS_PER_DAY
        times_shown = np.array([visitor.shown.get(row, 0) for row in rows.tolist()])
        return np.asarray(
            config.click_bias
            + config.taste_weight * (vectors @ visitor.interest)
            + config.intent_weight * (vectors @ visitor.intent)
            + config.quality_weight * world.quality[rows]
            + config.novelty_weight * 0.5 ** (age_days / 3.0)
            - config.repeat_fatigue * times_shown,
            dtype=np.float32,
        )


def _earlier_of_same(categories: Ints, examined: NDArray[np.bool_]) -> Ints:
    """(n,) number of examined items before each item that share its category."""
    same = categories[:, None] == categories[None, :]
    before = np.tri(len(categories), k=-1, dtype=bool)
    return np.asarray((same & before & examined[None, :]).sum(axis=1))


def _sigmoid(x: NDArray[np.floating] | np.floating) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-x)), dtype=np.float32)
