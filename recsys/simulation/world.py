"""A seeded ground truth to test a recommender in: items with a lifetime, users with tastes.

The document and user models of RecSim (Ie et al. 2019): latent vectors decide affinity, and quality shows only after
a click. The recommender knows nothing of this module; it meets the users over HTTP and Kafka
(`infra.evaluation.load.traffic`). Figures measured in a world are *simulated*.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, Item, User
from recsys.operator_files import read_bytes

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class WorldConfig(BaseModel):
    """The size and dynamics of a world. Unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0, description="Seed of all random draws.")
    users: int = Field(10_000, ge=1, le=10_000_000, description="Number of users.")
    items: int = Field(5_000, ge=1, le=10_000_000, description="Number of items on the first day.")
    categories: int = Field(20, ge=1, le=10_000, description="Number of item categories.")
    creators: int = Field(500, ge=1, description="Number of creators; each prefers one category.")
    dimensions: int = Field(16, ge=2, le=256, description="Dimensions of the latent vectors.")
    days: int = Field(
        30, ge=1, le=3_650, description="Number of days; the items of all days are drawn in advance."
    )
    new_items_per_day: int = Field(50, ge=0, description="Number of new items per day.")
    item_life_days: float = Field(120.0, gt=0, description="Mean days until an item expires.")
    start_ms: int = Field(
        1_767_225_600_000, gt=0, description="Unix milliseconds of the first midnight (UTC)."
    )
    sessions_per_day: float = Field(1.2, gt=0, description="Mean number of visits per user and day.")


@dataclass(frozen=True)
class World:
    """The population. Item arrays run over the items of all days, by time of birth; ids are `i<row>` and `u<row>`.

    item_vector (I, d), user_taste (U, d): unit length. quality (I,), about N(0, 1). price (I,) in euros.
    duration (I,) in seconds. born_ms, dies_ms (I,) Unix milliseconds. price_sensitivity, activity (U,) about 1 in
    the mean. peak_hour (U,): when a user's visits cluster.
    """

    config: WorldConfig
    item_vector: Floats
    item_category: Ints
    item_creator: Ints
    quality: Floats
    price: Floats
    duration: Floats
    born_ms: Ints
    dies_ms: Ints
    category_vector: Floats
    user_taste: Floats
    price_sensitivity: Floats
    activity: Floats
    peak_hour: Floats

    def alive(self, now_ms: int) -> Ints:
        """Rows of the items that exist at a time, oldest first."""
        born = int(np.searchsorted(self.born_ms, now_ms, side="right"))
        return np.flatnonzero(self.dies_ms[:born] > now_ms)

    def item(self, row: int) -> Item:
        """The catalogue entry, without the latent vector and the quality."""
        return Item(
            item_id=f"i{row}",
            title=f"Item {row} of category {self.item_category[row]}",
            categories=(f"c{self.item_category[row]}",),
            creator=f"m{self.item_creator[row]}",
            created_ms=int(self.born_ms[row]),
            attributes={"price": f"{self.price[row]:.2f}", "duration_ms": f"{self.duration[row] * 1e3:.0f}"},
        )

    def user(self, row: int) -> User:
        return User(f"u{row}")

    @cached_property
    def rhythm(self) -> Floats:
        """(U, 24) probability that a user's visit is in each hour of the day."""
        hours = np.arange(24)
        distance = np.abs((hours[None, :] - self.peak_hour[:, None] + 12) % 24 - 12)
        weight = np.exp(-((distance / 4.0) ** 2)) + 0.05
        return np.asarray(weight / weight.sum(axis=1, keepdims=True), dtype=np.float32)

    def visits(self, day: int) -> tuple[Ints, Ints]:
        """The visits of one day, by time: user rows (n,), Unix milliseconds (n,).

        Weekends are a third busier. The same day always has the same visits.
        """
        rng = np.random.default_rng((self.config.seed, 1, day))
        weekend = 4 / 3 if (self.config.start_ms // MS_PER_DAY + day + 4) % 7 in (0, 6) else 1.0
        counts = rng.poisson(self.config.sessions_per_day * weekend * self.activity)
        users = np.repeat(np.arange(self.config.users), counts)
        below = self.rhythm.cumsum(axis=1)[users] < rng.random(len(users))[:, None]
        hour = np.minimum(below.sum(axis=1), 23)
        at = hour * MS_PER_HOUR + rng.integers(0, MS_PER_HOUR, len(users))
        order = np.argsort(at, kind="stable")
        return users[order], self.config.start_ms + day * MS_PER_DAY + at[order]


def create_world(config: WorldConfig) -> World:
    """Draw a world. 1 M users × 1 M items at 16 dimensions take 0.2 GB, 0.9 at the peak, and seconds
    (`recsys bench simulation`)."""
    rng = np.random.default_rng((config.seed, 0))
    categories = _unit(rng.normal(size=(config.categories, config.dimensions)))
    creator_category = rng.integers(0, config.categories, config.creators)

    total = config.items + config.new_items_per_day * config.days
    born = np.concatenate(
        (
            config.start_ms - rng.integers(0, 60 * MS_PER_DAY, config.items),
            config.start_ms + rng.integers(0, config.days * MS_PER_DAY, total - config.items),
        )
    )
    born.sort()
    creator = rng.integers(0, config.creators, total)
    # 80 % of a creator's items are in the creator's category.
    category = np.where(
        rng.random(total) < 0.8, creator_category[creator], rng.integers(0, config.categories, total)
    )
    life = rng.exponential(config.item_life_days, total)
    # No item of the first day has expired before it.
    dies = np.maximum(born, config.start_ms) + (life * MS_PER_DAY).astype(np.int64) + 1

    taste = rng.dirichlet(np.full(config.categories, 0.15), config.users).astype(np.float32)
    return World(
        config=config,
        item_vector=_unit(categories[category] + 0.6 * rng.normal(size=(total, config.dimensions)) / 4),
        item_category=category,
        item_creator=creator,
        quality=rng.normal(size=total).astype(np.float32),
        price=rng.lognormal(2.5, 0.8, total).astype(np.float32),
        duration=rng.lognormal(3.5, 0.8, total).astype(np.float32),
        born_ms=born.astype(np.int64),
        dies_ms=dies.astype(np.int64),
        category_vector=categories,
        user_taste=_unit(taste @ categories + 0.1 * rng.normal(size=(config.users, config.dimensions))),
        price_sensitivity=rng.lognormal(0.0, 0.5, config.users).astype(np.float32),
        activity=rng.gamma(2.0, 0.5, config.users).astype(np.float32),
        peak_hour=rng.normal(20.0, 3.0, config.users).astype(np.float32) % 24,
    )


def read_world(path: Path) -> WorldConfig:
    """Read the configuration that `recsys simulate history` has written.

    Raises:
        InvalidConfig: the file is missing or invalid.
    """
    try:
        return WorldConfig.model_validate_json(read_bytes(path, InvalidConfig))
    except FileNotFoundError as error:
        raise InvalidConfig(f"{path}: {error.strerror}; `recsys simulate history` writes it") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidConfig(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _unit(vectors: NDArray[np.floating]) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)
