"""The evidence of a canary: for each guardrail an always-valid p of harm, so that looking again costs nothing.

Users are the unit where the lake has them: CTR, CVR, the share of impressions on each arm's most shown items (by the
mixture SPRT of `analysis`), and whose lists are short. The API counts slow and degraded answers, by request.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from recsys.experiments.analysis import ArmData, Lift, compare
from recsys.experiments.comparison import lifts
from recsys.experiments.outcomes import METRICS, Outcomes
from recsys.experiments.release import CANARY, CONTROL

HEAD_SHARE = 0.01  # of the items that the control has shown; as many are the head of each arm
_LEAST_HEAD = 10  # items
MARGIN = 0.01  # share of requests that may be slow or degraded in addition to the control's
_P99 = 0.99
_MIRRORED_SLOWER, _MIRRORED_FAILED, _FEWER_ITEMS = 2.0, 0.01, 0.5
_LEAST_EVENTS = 30  # clicks or purchases; a canary with few by chance has a variance far below the true one
_LEAST = 4  # users of an arm, of whom two choose and two are measured
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Requests:
    """One arm's requests. `seconds`: upper bound → requests that took at most that long; degraded ones are included."""

    lists: int
    degraded: int
    seconds: Mapping[float, int]


def shadow_problems(
    requests: int, failed: int, ms: float, shadow_ms: float, items: int, shadow_items: int
) -> tuple[str, ...]:
    """Why mirrored requests speak against a bundle. `ms`: means of the same requests; `items`: distinct ones shown."""
    found = []
    if failed > _MIRRORED_FAILED * max(requests, 1):
        found.append(f"{failed} of {requests} mirrored requests failed or were degraded")
    if shadow_ms > _MIRRORED_SLOWER * ms:
        found.append(f"{shadow_ms:.1f} ms per mirrored request, the serving bundle takes {ms:.1f} ms")
    if shadow_items < _FEWER_ITEMS * items:
        found.append(f"{shadow_items} distinct items in mirrored lists, the serving bundle has {items}")
    return tuple(found)


def user_guardrails(outcomes: Outcomes) -> dict[str, float]:
    """Guardrail → p of harm, of those that can be compared already.

    `outcomes`: of the experiment of one canary stage."""
    if not {CANARY, CONTROL} <= set(outcomes.arms):
        return {}
    members = [np.flatnonzero(outcomes.arm == outcomes.arms.index(arm)) for arm in (CONTROL, CANARY)]
    found = {}
    for name, lift in lifts(outcomes, CONTROL, CANARY).items():
        if name not in ("ctr", "cvr"):
            continue
        of_each_user = outcomes.sums[METRICS[name].denominator]
        # expected of the smaller arm, not seen in it: what is seen must not decide whether it is tested
        if lift.control * min(of_each_user[arm].sum() for arm in members) >= _LEAST_EVENTS:
            found[name] = harm_p(lift, -1)
    if min(map(len, members)) < _LEAST:
        return found
    found["list_length"] = _list_length(outcomes, *members)
    found["head_share"] = _head_share(outcomes, *members)
    return found


def harm_p(lift: Lift, direction: int) -> float:
    """The always-valid p where the difference is harmful, else 1. `direction`: -1 if less is harmful, else 1."""
    return lift.always_valid_p if direction * lift.relative > 0 else 1.0


def request_guardrails(control: Requests, canary: Requests) -> dict[str, float]:
    """`slow`: beyond the smallest bound that 99 % of the control's requests keep. A p99 that moves within one bucket
    of the histogram is not seen."""
    if not control.lists or not canary.lists:
        return {}
    found = {"degraded": excess_p(canary.degraded, canary.lists, control.degraded / control.lists + MARGIN)}
    kept = [bound for bound, n in sorted(control.seconds.items()) if n >= _P99 * control.lists]
    if kept and kept[0] in canary.seconds:
        slow = canary.lists - canary.seconds[kept[0]]
        share = 1 - control.seconds[kept[0]] / control.lists
        found["slow"] = excess_p(slow, canary.lists, share + MARGIN)
    return found


def excess_p(successes: int, n: int, share: float) -> float:
    """Always-valid p of "the true share is at most `share`", by a likelihood ratio that mixes uniformly over all larger
    shares: under the null hypothesis a supermartingale (Ville's inequality; Robbins 1970).

    >>> excess_p(0, 100, 0.02), excess_p(10, 100, 0.02) < 0.01
    (1.0, True)
    """
    if not 0 < share < 1 or n == 0:
        return 1.0
    if successes <= share * n:  # no larger share is likelier; and the mixture underflows where n is large
        return 1.0
    a, b = successes + 1.0, n - successes + 1.0
    log_mixture = special.betaln(a, b) + np.log(special.betaincc(a, b, share)) - np.log1p(-share)
    log_null = successes * np.log(share) + (n - successes) * np.log1p(-share)
    return float(min(1.0, np.exp(np.clip(log_null - log_mixture, -700, 0))))


def _list_length(outcomes: Outcomes, control: Ints, canary: Ints) -> float:
    """p of "no more users get shorter lists than half of the control's users". A share of users, as the length of most
    lists is the same and has no variance."""
    length = outcomes.sums["impressions"] / np.maximum(outcomes.sums["lists"], 1)
    short = length < np.median(length[control])
    return excess_p(int(short[canary].sum()), len(canary), float(short[control].mean()) + MARGIN)


def _head_share(outcomes: Outcomes, control: Ints, canary: Ints) -> float:
    """p of "the canary's most shown items get no larger share than the control's". Half of an arm's users choose its
    head, equally many in both arms; the other half is measured, so that no arm is judged by what chose."""
    chosen = min(len(control), len(canary)) // 2
    sides = [(members[0::2][:chosen], members[1::2]) for members in (control, canary)]
    counts = [_shown(outcomes, choosers) for choosers, _ in sides]
    head = max(_LEAST_HEAD, round(HEAD_SHARE * np.count_nonzero(counts[0])))
    measures = []
    for (_, measured), shown in zip(sides, counts, strict=True):
        most = np.zeros(len(shown), bool)
        most[np.argsort(-shown, kind="stable")[:head]] = True
        n = len(outcomes.arm)
        hits, impressions = (
            np.bincount(outcomes.shown_user, weights, minlength=n).astype(np.float64)
            for weights in (most[outcomes.shown_item].astype(np.float64), None)
        )
        measures.append(ArmData(hits[measured], impressions[measured]))
    of_control, of_canary = measures
    return harm_p(compare(of_control, of_canary), 1) if of_control.numerator.any() else 1.0


def _shown(outcomes: Outcomes, users: Ints) -> Ints:
    """Impressions of each item to these users."""
    inside = np.zeros(len(outcomes.arm), bool)
    inside[users] = True
    items = outcomes.shown_item[inside[outcomes.shown_user]]
    return np.bincount(items, minlength=int(outcomes.shown_item.max(initial=-1)) + 1)
