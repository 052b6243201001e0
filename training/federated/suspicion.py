"""Who spoils sums: group testing. The server never sees a client's update, but it knows who was in which group, and
which groups' sums were too long. Each client has a chance of being an attacker, which Bayes' rule moves round by round.

Groups are dealt by these chances (adaptive group testing; Dorfman 1943): suspects are with suspects, where even those
who hide in a sum of honest clients make it too long together, or sit out. The others are dealt with a few doubtful
clients a group, among trusted ones, so that the group is probably clean.

It needs some clean groups to learn from: of 32 clients, few are clean with one attacker in ten, none with one in five.
"""

import numpy as np
from numpy.typing import NDArray

SUSPECT = 0.5  # likelier an attacker than not
CLEAN = 0.7  # a group with doubtful clients has no attacker by at least this chance
_WRONG = 0.01  # chance that a sum without attackers is too long
_IDLE = 0.2  # chance that an attacker does nothing in a round
_LEAST = 1e-3  # what few groups show is not believed for ever


class Suspicion:
    """chances: (clients,) float64, of being an attacker."""

    def __init__(self, chances: NDArray[np.float64]) -> None:
        self.chances = chances

    @classmethod
    def new(cls, clients: int, attackers: float) -> "Suspicion":
        """attackers: the share of the clients that may attack, before anything is known."""
        return cls(np.full(clients, attackers))

    def dealt(self, clients: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
        """The clients of a round, by their places among `clients` (C,), in groups of `size` or more. Who has no such
        group sits out: fewer suspects than that, or fewer others."""
        is_suspect = self.chances[clients] > SUSPECT
        groups = []
        for places in (np.flatnonzero(~is_suspect), np.flatnonzero(is_suspect)):
            groups += [places[group] for group in dealt(self.chances[clients[places]], size)]
        return groups

    def note(self, group: NDArray[np.int64], spoilt: bool) -> None:
        """A sum over these clients was or was not spoilt. Where the others hardly explain it, a client is suspected
        most."""
        own = self.chances[group]
        inactive = 1 - own * (1 - _IDLE)
        good_if_honest = (1 - _WRONG) * np.prod(inactive) / inactive
        good_if_attacker = good_if_honest * _IDLE
        if spoilt:
            honest, attacker = 1 - good_if_honest, 1 - good_if_attacker
        else:
            honest, attacker = good_if_honest, good_if_attacker
        now = own * attacker / (own * attacker + (1 - own) * honest)
        self.chances[group] = np.clip(now, _LEAST, 1 - _LEAST)


def dealt(chances: NDArray[np.float64], size: int) -> list[NDArray[np.int64]]:
    """Places in groups of `size` or more, by (C,) chances of being an attacker; the order of equal ones is kept."""
    count = len(chances) // size
    left = np.argsort(-chances, kind="stable")
    groups = []
    for part in np.array_split(left, count) if count else []:
        clean = np.cumprod(1 - chances[left[: len(part)]]) >= CLEAN
        doubtful = max(1, int(np.count_nonzero(clean)))
        trusted = len(left) - (len(part) - doubtful)
        groups.append(np.concatenate([left[:doubtful], left[trusted:]]))
        left = left[doubtful:trusted]
    return groups
