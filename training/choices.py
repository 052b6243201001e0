"""Choices and defaults that the commands show in their help. Importing this module loads no library."""

from dataclasses import dataclass
from enum import StrEnum

RANK_EPOCHS = 4
PRIVATE_EPOCHS = 5  # of the ranker; fewer are too few steps, more cost too much noise
PRIVATE_TWO_TOWER_EPOCHS = 12
NEWEST_EXAMPLES = 2_000_000  # that `recsys evaluate rank` reads, at most: memory is bounded
# `recsys demo`, `quickstart` and the notebook: enough to beat popularity by far, in minutes on two cores.
QUICK_RANK_EPOCHS = 2
_QUICK_EPOCHS, _QUICK_EVENTS = 8, 1_000_000  # of the two-tower, at most; events over all epochs
FEDERATED_ROUNDS = 4_096
# most items of a catalogue → rank of the two-tower's linear part; exact search among 50,000 takes half a millisecond
LINEAR_RANKS = {10_000: 128, 50_000: 64}
FULL_EVERY = 7  # nights between two full trainings of `recsys train nightly`


def linear_rank(items: int) -> int:
    """Of the two-tower's linear part in a catalogue of that size; 0: none.

    >>> [linear_rank(items) for items in (10_000, 10_001, 50_001)]
    [128, 64, 0]
    """
    return next((rank for most, rank in LINEAR_RANKS.items() if items <= most), 0)


@dataclass(frozen=True)
class FirstSizes:
    """What the first bundle learns from. `built`: newest events with examples, of which the ranker takes `examples`;
    `events`: newest ones of the two-tower, which sees them `epochs` times."""

    built: int
    events: int
    examples: int
    epochs: int


_FIRST_MINUTE = FirstSizes(built=10_000, events=100_000, examples=40_000, epochs=2)
_FIRST_START_S = 35.0  # of the first minute: processes start, Spark most of all, and the bundle is published
LEAST_FIRST_MINUTES = 0.75


def first_sizes(minutes: float) -> FirstSizes:
    """What two cores build and train in about `minutes`.

    >>> first_sizes(1.0)
    FirstSizes(built=10000, events=100000, examples=40000, epochs=2)
    >>> first_sizes(3.0)
    FirstSizes(built=58000, events=232000, examples=232000, epochs=5)
    """
    share = (max(minutes, LEAST_FIRST_MINUTES) * 60 - _FIRST_START_S) / (60 - _FIRST_START_S)
    one = _FIRST_MINUTE
    epochs = max(1, min(_QUICK_EPOCHS, round(one.epochs * share**0.5)))
    return FirstSizes(
        built=int(one.built * share),
        events=int(one.events * share * one.epochs / epochs),
        examples=int(one.examples * share),
        epochs=epochs,
    )


def quick_epochs(events: int) -> int:
    """Of the two-tower, for a log of this size."""
    return max(1, min(_QUICK_EPOCHS, _QUICK_EVENTS // max(events, 1)))


class Protocol(StrEnum):
    """How `recsys evaluate recall` splits the data."""

    LEAVE_ONE_OUT = "leave-one-out"  # each user's last new item
    TEMPORAL = "temporal"  # what comes after one moment
    GIVEN = "given"  # another file or data set has the test
    ML_1M = "ml-1m"  # published: leave one out on the stable order, with a recipe of its own
    KUAIRAND = "kuairand"  # published: next long view from 2022-05-04 on, likewise


class Order(StrEnum):
    """Whether the order of a user's events means something, in two files of training and test."""

    AUTO = "auto"  # it does where the test's events come later
    KEPT = "kept"
    NONE = "none"


class RankProtocol(StrEnum):
    """How `recsys evaluate rank` splits the data."""

    KUAIRAND = "kuairand"  # the published days and features of the KuaiRand-Pure slice
    TEMPORAL = "temporal"  # 80/10/10 by time, of any log


class PrivateModel(StrEnum):
    """What `recsys train private` trains."""

    RANKER = "ranker"
    TWO_TOWER = "two-tower"


class Augmentation(StrEnum):
    """How training histories are varied."""

    NONE = "none"
    CROP = "crop"  # keep a consecutive part
    MASK = "mask"  # remove some events
    REORDER = "reorder"  # shuffle a short stretch
    SUBSTITUTE = "substitute"  # replace some items by a neighbour
    SHUFFLE = "shuffle"  # all events in random order: what goes together counts, not what follows what
