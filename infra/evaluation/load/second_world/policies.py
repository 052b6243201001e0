"""What a simulator's users are shown without a recommender: at random for the history, and as baselines."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from infra.evaluation.load.second_world.world import ForeignWorld, Turn


@dataclass
class Played:
    """What one user was shown: sums over the shown products, and how good the best ones were at the same moments."""

    shown: int = 0
    clicks: int = 0
    probability: float = 0.0
    best_probability: float = 0.0
    first_best: float = 0.0  # at the first product shown, before any policy could matter

    def add(self, before: Turn, after: Turn) -> None:
        """Add one product: the turns before and after it was shown."""
        if not self.shown:
            self.first_best = before.best_probability
        self.shown += 1
        self.clicks += after.clicked
        self.probability += after.probability
        self.best_probability += before.best_probability


@dataclass
class Visitor:
    """A user as a policy knows them. `rng` is the policy's own, of this user."""

    rng: np.random.Generator
    viewed: set[int] = field(default_factory=set)


Policy = Callable[[Visitor, Turn], int]


def at_random(products: int) -> Policy:
    return lambda visitor, turn: int(visitor.rng.integers(products))


def oracle(visitor: Visitor, turn: Turn) -> int:
    return turn.best


def policies(views: Sequence[int], products: int) -> Mapping[str, Policy]:
    """The baselines by name. `views`: the products that the history's users viewed, each as often as it was."""
    counts = Counter(views)
    ranked = sorted(range(products), key=lambda product: -counts[product])
    return {
        "random": at_random(products),
        "most_viewed": lambda visitor, turn: ranked[0],
        "most_viewed_unseen": lambda visitor, turn: next(
            (product for product in ranked if product not in visitor.viewed), ranked[0]
        ),
        "oracle": oracle,
    }


@dataclass(frozen=True)
class Shown:
    """A product that was shown, between two turns."""

    product: int
    before: Turn
    after: Turn


def timeline(world: ForeignWorld, user: int, policy: Policy, seed: int) -> Iterator[Turn | Shown]:
    """All of one user: the turns, and between two of them what was shown."""
    visitor, turn = Visitor(np.random.default_rng((seed, user))), world.begin(user)
    while True:
        yield turn
        visitor.viewed.update(product for _, product in turn.views)
        if turn.done:
            return
        product, before = policy(visitor, turn), turn
        turn = world.show(user, product)
        yield Shown(product, before, turn)


def play(world: ForeignWorld, users: Sequence[int], policy: Policy, seed: int) -> dict[int, Played]:
    """What the policy earns from each user who is shown anything at all."""
    found: dict[int, Played] = {}
    for user in users:
        for each in timeline(world, user, policy, seed):
            if isinstance(each, Shown):
                found.setdefault(user, Played()).add(each.before, each.after)
    return found
