"""How much the published models tell of one user: (ε, δ) of the subsampled Gaussian mechanism over all rounds.

One user's update in a round is at most `clip` long, after rounding `ROUNDED` times that, and the noise is measured in
that bound. A user takes part in a round by chance `cohorts.rate`, and nobody else knows in which. The unit is the user
with the whole history, adjacent data sets differ by one user.
"""

from scipy.stats import binom

from recsys.contracts.errors import InvalidConfig
from training.federated.config import FederatedRecipe
from training.privacy import accounting
from training.privacy.accounting import Spend, epsilon_of


def delta_of(clients: int) -> float:
    """1 / (10 n): well below the chance to publish a whole user."""
    return 1 / (10 * clients)


def epsilon(config: FederatedRecipe, clients: int) -> float:
    """ε at `delta_of(clients)` after all rounds; infinite without noise.

    Raises:
        InvalidConfig: a cohort may be so small that one user decides whether there is a group at all.
    """
    if not config.noise:
        return float("inf")
    small = config.rounds * binom.cdf(config.cohorts.group, clients, config.cohorts.rate)
    if small > delta_of(clients) / 100:
        raise InvalidConfig(
            f"noise: cohorts of {config.cohorts.rate * clients:.0f} clients, by chance fewer than a group of"
            f" {config.cohorts.group}; one client could decide that; raise cohorts.rate or lower cohorts.group"
        )
    return epsilon_of([spend_of(config)], delta_of(clients))


def spend_of(config: FederatedRecipe) -> Spend:
    """What all rounds cost."""
    return Spend(config.noise, config.cohorts.rate, config.rounds)


def noise_for(target: float, config: FederatedRecipe, clients: int) -> float:
    """The least noise whose ε after all rounds is at most `target`."""
    return accounting.noise_for(
        target, delta_of(clients), lambda noise: [spend_of(config.replace(noise=noise))]
    )
