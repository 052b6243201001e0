"""The batch's side: which engagements of a log are backed by an impression, and which are too many.

An engagement is backed if the item was shown to that user before, or at that instant; a request id proves nothing,
since a client may name any. Verdicts are about a user's day and an item's day (UTC), so a verdict ends by itself, and
late events change no day but their own. Numpy only: Spark's executors run it on a bucket of users at a time.
"""

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.types import MS_PER_MINUTE
from recsys.trust.rules import RULES, Ints, TrustRules, credit, rate_of

Mask = NDArray[np.bool_]


def backed(pair: Ints, time_ms: Ints, shown: Mask) -> Mask:
    """(n,) which events follow an impression of the same pair of user and item. An impression backs itself.

    Args:
        pair: (n,) int64 code of the user and the item; events in any order.
        shown: (n,) which events are impressions.
    """
    order = np.lexsort((~shown, time_ms, pair))
    sorted_pair = pair[order]
    so_far = np.cumsum(shown[order])
    first = np.searchsorted(sorted_pair, sorted_pair)  # of the pair
    before = np.concatenate(([0], so_far))[first]
    found = np.empty(len(pair), bool)
    found[order] = so_far > before
    return found


def overflowing(user: Ints, time_ms: Ints, rules: TrustRules = RULES) -> Mask:
    """(n,) which events find the user's token bucket empty.

    The bucket holds `burst` tokens and gains `per_minute` per minute; an event takes one, also one that finds none. So
    the answer is a maximum over the user's earlier events, and does not depend on what became of them.

    Args:
        user: (n,) int64 codes; events in any order.
    """
    if not len(user):
        return np.zeros(0, bool)
    order = np.lexsort((time_ms, user))
    users, first = np.unique(user[order], return_index=True)
    group = np.repeat(np.arange(len(users)), np.diff(np.append(first, len(user))))
    # in units of 1 / per_minute of a millisecond, so that a token is a whole number of them
    clock = (time_ms[order] - time_ms.min()) * rules.per_minute
    taken = (np.arange(len(user)) - first[group]) * MS_PER_MINUTE
    ahead = clock - taken
    # one running maximum over all users: each is lifted above the one before
    lift = group * int(ahead.max() - ahead.min() + 1)
    latest = np.maximum.accumulate(ahead + lift) - lift
    found = np.empty(len(user), bool)
    found[order] = latest + taken - clock >= rules.burst * MS_PER_MINUTE
    return found


def over_credit(backed_users: Ints, unbacked_users: Ints, day: Ints, rules: TrustRules = RULES) -> Mask:
    """(n,) whose unbacked users are more than its backed ones explain, compared with all items of that day.

    A day of which fewer than half of the engagements are backed is not judged: an import without impressions, or a
    shop that is found by search.

    Args:
        backed_users, unbacked_users: (n,) int64 users of an item on a day.
        day: (n,) int64 of each row.
    """
    found = np.zeros(len(day), bool)
    for each in np.unique(day):
        rows = np.flatnonzero(day == each)
        unbacked, evidence = unbacked_users[rows], backed_users[rows]
        found[rows] = unbacked > credit(evidence, rate_of(unbacked, evidence), rules)
    return found
