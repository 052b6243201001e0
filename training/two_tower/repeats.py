"""Learn from the log which seen items people come back to: the bundle's `RepeatPolicy`."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, EventType
from recsys.models.encoding import TYPE_NUMBERS
from recsys.recall.repeat_consumption import LEAST_RETURNING, RepeatPolicy, stronger
from training.two_tower.sequences import History

AWAY_MS = MS_PER_HOUR
LEAST_RETURNS = 20  # fewer tell nothing of their delay
EARLIEST = 0.1  # share of the returns that may come before the item is shown again
_HISTORIES = 50_000
_TYPES = {number: kind for kind, number in TYPE_NUMBERS.items()}


def visits(history: History) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(n,) bool twice: the events that begin a visit of an item, and those of them that come back to it.

    A user comes back after an event of another item, or after an hour. The click, like and purchase of one exposure are
    one visit.
    """
    n = len(history.numbers)
    order = np.argsort(history.numbers, kind="stable")
    same = history.numbers[order][1:] == history.numbers[order][:-1]
    away = (np.diff(order) > 1) | (np.diff(history.times[order]) >= AWAY_MS)
    returns = np.zeros(n, np.bool_)
    returns[order[1:][same & away]] = True
    first = np.zeros(n, np.bool_)
    first[order[np.concatenate(([True], ~same))[:n]]] = True
    return first | returns, returns


@dataclass(frozen=True)
class BeforeLast:
    """Leave out the last item that a user took, and all after it; nothing of a history that takes one item alone.

    repeats: the user takes an item again by coming back to it.
    """

    repeats: bool = False

    def __call__(self, history: History) -> int:
        begins, returns = visits(history)
        taken = np.flatnonzero(begins if self.repeats else begins & ~returns)
        return int(taken[-1]) if len(taken) > 1 else len(history.numbers)


def learnt_repeats(histories: Iterable[History]) -> RepeatPolicy:
    """Where `LEAST_RETURNING` of all choices come back to an item: the types of event after which as large a share of
    the items is come back to, with the days that nine in ten of these returns take at least. From the first 50,000
    histories.

    A type is judged by its own items: few of a shop's visits are clicks on its lists, whatever becomes of the clicked.
    """
    left = Counter[EventType]()  # items by the type of event that decides about them in the end
    delays = defaultdict[EventType, list[int]](list)
    for history in islice(histories, _HISTORIES):
        left.update(_note(history, visits(history)[1], delays))
    returns = sum(map(len, delays.values()))
    if returns < LEAST_RETURNING * (returns + left.total()):
        return RepeatPolicy()
    days: dict[EventType, float] = {}
    for kind, ms in sorted(delays.items()):
        if len(ms) >= max(LEAST_RETURNS, LEAST_RETURNING * (len(ms) + left[kind])):
            days[kind] = float(np.quantile(ms, EARLIEST) // MS_PER_DAY)
    return RepeatPolicy(days)


def _note(
    history: History, returns: NDArray[np.bool_], delays: dict[EventType, list[int]]
) -> Iterable[EventType]:
    """The time since the latest visit of each return, by the type of event that decides about its item. Returns the
    types that decide about the items in the end."""
    decides: dict[int, EventType] = {}
    latest: dict[int, int] = {}
    rows = (column.tolist() for column in (history.numbers, history.types, history.times, returns))
    for item, number, at_ms, is_return in zip(*rows, strict=True):
        before = decides.get(item)
        if is_return and before is not None:
            delays[before].append(at_ms - latest[item])
        decides[item], latest[item] = stronger(before, _TYPES[number]), at_ms
    return decides.values()
