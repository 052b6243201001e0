"""Who spoils sums: group testing. The server never sees a client's update, but it knows who was in which group, and
which groups' sums were too long. Each client has a chance of being an attacker, which Bayes' rule moves round by round.

Groups are dealt by these chances (adaptive group testing; Dorfman 1943): likely attackers spoil a sum together, and of
the others so many doubtful ones are tested at once that the group is probably clean, with trusted clients around them.
"""

import numpy as np
from numpy.typing import NDArray

CLEAN = 0.7  # a group with doubtful clients has no attacker by at least this chance
_WRONG = 0.01  # chance that a sum without attackers is too long
_IDLE = 0.2  # chance that an attacker does nothing in a round
_LEAST = 1e-3  # nobody is trusted, or given up, for ever


class Suspicion:
    """chances: (clients,) float64, of being an attacker."""

    def __init__(self, chances: NDArray[np.float64]) -> None:
        self.chances = chances

    @classmethod
    def new(cls, clients: int, attackers: float) -> "Suspicion":
        """attackers: the share of the clients that may attack, before anything is known."""
        return cls(np.full(clients, attackers))

    def note(self, group: NDArray[np.int64], spoilt: bool) -> None:
        """A sum over these clients was or was not too long. Of a spoilt one, those whom nothing else explains are
        suspected most."""
        own = self.chances[group]
        inactive = 1 - own * (1 - _IDLE)
        honest = (
            (1 - _WRONG) * np.prod(inactive) / inactive
        )  # the chance of a good sum if this client is honest
        attacker = honest * _IDLE
        if spoilt:
            attacker, honest = 1 - attacker, 1 - honest
        now = own * attacker / (own * attacker + (1 - own) * honest)
        self.chances[group] = np.clip(now, _LEAST, 1 - _LEAST)


def dealt(chances: NDArray[np.float64], size: int) -> list[NDArray[np.int64]]:
    """Clients of a round, by their place, in groups of `size` or more, of about the same size; none if there are fewer.

    Args:
        chances: (C,) of being an attacker; the order of equal ones is kept.
    """
    count = len(chances) // size
    left = np.argsort(-chances, kind="stable")
    groups = []
    for part in np.array_split(left, count) if count else []:
        doubtful = _doubtful(chances[left[: len(part)]])
        trusted = len(left) - (len(part) - doubtful)
        groups.append(np.concatenate([left[:doubtful], left[trusted:]]))
        left = left[doubtful:trusted]
    return groups


def _doubtful(chances: NDArray[np.float64]) -> int:
    """How many of the most suspicious clients left, `chances` in falling order, go into the next group."""
    if chances[0] > 0.5:
        return len(chances)
    clean = np.cumprod(1 - chances) >= CLEAN
    return max(1, int(np.count_nonzero(clean)))
