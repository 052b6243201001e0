"""What mechanisms cost together: Rényi differential privacy (Mironov 2017), by opacus's accountant.

Everything that is released is one mechanism: Gaussian noise on the sum of what a Poisson sample of the users
contributes, each within a norm. Adjacent are two data sets of which one has one user more.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from recsys.contracts.errors import InvalidConfig

UNIT = "user"
# of the divergence, more than opacus's own: a ledger of many small releases is best bounded by a high one
_ORDERS = [*(1 + n / 4 for n in range(1, 24)), *range(7, 64), 80, 96, 128, 192, 256, 384, 512, 1024]
_MOST_NOISE = 1e4
_PRECISION = 1e-3  # of noise multipliers, relative


@dataclass(frozen=True)
class Spend:
    """`steps` releases of a sum over a sample of the users.

    noise_multiplier: the noise's standard deviation over the norm of one user's part. sample_rate: a user's
    probability of being in the sample; 1: everybody is.
    """

    noise_multiplier: float
    sample_rate: float = 1.0
    steps: int = 1


def epsilon_of(spends: Iterable[Spend], delta: float) -> float:
    """The epsilon of all of them together, at this delta.

    >>> round(epsilon_of([Spend(noise_multiplier=1.0)], delta=1e-5), 2)
    4.73
    """
    # here, as it takes seconds to load, and every command that trains loads this module
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(s.noise_multiplier, s.sample_rate, s.steps) for s in spends]
    return float(accountant.get_epsilon(delta, alphas=_ORDERS)) if accountant.history else 0.0


def check_delta(delta: float, users: int) -> None:
    """
    Raises:
        InvalidConfig: delta is so large that it would allow giving a user away.
    """
    if delta >= 1 / max(users, 1):
        raise InvalidConfig(
            f"delta {delta:g} with {users:,} users would allow publishing one of them; set RECSYS_PRIVACY_DELTA below"
            f" {1 / users:.0e}"
        )


def noise_for(epsilon: float, delta: float, plan: Callable[[float], Sequence[Spend]]) -> float:
    """The least noise multiplier whose `plan` stays within epsilon, to a thousandth.

    Raises:
        InvalidConfig: no noise is enough, as other parts of the plan cost more.
    """
    low, high = 0.0, 1.0
    while epsilon_of(plan(high), delta) > epsilon:
        low, high = high, 2 * high
        if high > _MOST_NOISE:
            raise InvalidConfig(
                f"epsilon {epsilon:g} at delta {delta:g} cannot be kept; ask for a larger epsilon, or for fewer steps"
            )
    while high - low > _PRECISION * high:
        middle = (low + high) / 2
        if middle > 0 and epsilon_of(plan(middle), delta) <= epsilon:
            high = middle
        else:
            low = middle
    return high


def combined(*multipliers: float) -> float:
    """The noise multiplier of several Gaussian releases about the same sample of users.

    >>> round(combined(3.0, 4.0), 2)
    2.4
    """
    return float(sum(m**-2 for m in multipliers) ** -0.5)
