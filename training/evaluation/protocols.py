"""How a log is split into training, validation and test.

* `leave_one_out`: each user's last new item is the test, the one before it the validation; the tested model is trained
  on all before the test. On MovieLens-1M's stable order this is the protocol of the published sequence models (SASRec,
  gSASRec, FuXi-α).
* `temporal`: everything before one moment is training, each new item after it a case, asked with all that the user did
  before. As in serving, the history advances and the model does not.
* `given`: one log is training, another has the items that each user is asked for, together in one case. Where these
  were drawn at random from a user's events, the order of the events means nothing, and training gets none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import EventType, Item
from recsys.models.encoding import TYPE_NUMBERS
from training.choices import Order
from training.evaluation.sources import Log, in_one_catalogue
from training.two_tower.repeats import BeforeLast
from training.two_tower.retrieval import Cases, cases_after
from training.two_tower.sequences import BeforeTime, Cut, History

SHORTEST = 2  # different items of a user who is tested: one to train on, one to ask for
HELD_OUT = 0.1  # share of the newest events that is the test, of those before it the validation


@dataclass(frozen=True)
class Split:
    """`train` ⊂ `refit`; the tests come after `refit`, the validation cases after `train`."""

    items: Sequence[Item]
    train: Sequence[History]
    validation: Cases
    refit: Sequence[History]
    test: Cases
    validation_from_ms: int = 0  # where the validation begins at one moment for all
    users: Path | None = None  # their static attributes
    left_out: Mapping[str, int] = field(default_factory=dict)  # figures: how much is not tested
    notes: Sequence[str] = ()  # what a reader of the figures must know
    ordered: bool = True  # or else the order of a history means nothing


def leave_one_out(log: Log) -> Split:
    """Users with fewer than `SHORTEST` different items are trained on, not tested; no other filter is applied.

    A user of `SHORTEST` has no validation case.

    Raises:
        InvalidData: that is everyone.
    """
    long = [len(np.unique(h.numbers)) >= SHORTEST for h in log.histories]
    if not any(long):
        raise InvalidData(f"no user has {SHORTEST} different items; use --protocol temporal, or more data")
    tested = [h for h, is_long in zip(log.histories, long, strict=True) if is_long]
    short = [h for h, is_long in zip(log.histories, long, strict=True) if not is_long]
    refit = _cut_all(tested, BeforeLast())
    train = _cut_all(refit, BeforeLast())
    return Split(
        log.items,
        train=[*train, *short],
        validation=cases_after(refit, BeforeLast()),
        refit=[*refit, *short],
        test=cases_after(tested, BeforeLast()),
        users=log.users,
        left_out={"left_out_users": len(short), "unknown_item_events": log.unknown},
    )


def temporal(log: Log, validation_from_ms: int, test_from_ms: int, wanted: EventType | None = None) -> Split:
    """`wanted`: ask only for items that got an event of this type, such as long views.

    Raises:
        InvalidData: no event is before the validation, or nothing new is asked for in the test.
    """
    _refuse_timeless(log)
    refit = _cut_all(log.histories, BeforeTime(test_from_ms))
    train = _cut_all(refit, BeforeTime(validation_from_ms))
    number = 0 if wanted is None else TYPE_NUMBERS[wanted]
    validation = cases_after(refit, BeforeTime(validation_from_ms), number)
    test = cases_after(log.histories, BeforeTime(test_from_ms), number)
    if not train or not len(test):
        raise InvalidData("a temporal split with no training or no test events; choose other times")
    events = sum(len(h.numbers) for h in log.histories) - sum(len(h.numbers) for h in refit)
    return Split(
        log.items,
        train,
        validation,
        refit,
        test,
        validation_from_ms,
        log.users,
        {"left_out_events": events - len(test), "unknown_item_events": log.unknown},
    )


def temporal_shares(log: Log, validation: float = HELD_OUT, test: float = HELD_OUT) -> Split:
    """The newest share `test` of the events is the test, the share `validation` before it the validation."""
    _refuse_timeless(log)
    begins = np.quantile(_times(log.histories), (1 - test - validation, 1 - test))
    return temporal(log, int(begins[0]), int(begins[1]))


def given(train: Log, test: Log, users: Path | None = None, order: Order = Order.AUTO) -> Split:
    """Train on one log; ask each user of the other for all its items that the user does not have in the first.

    Items of `test` alone are in the catalogue, and users of `test` alone are asked with an empty history. Settings are
    chosen on `train`: its newest events, without times each user's last new item, without an order any of them.

    Args:
        users: static attributes of the users of both (`users_of_both`).

    Raises:
        InvalidData: nobody is asked for anything.
    """
    train, test = in_one_catalogue(train, test)
    no_order = _no_order(train, test, order)
    ordered = not no_order
    notes = _backwards(train, test)
    if no_order:
        notes = [f"the order of events is not used ({no_order}); --order kept uses it"]
        train = replace(train, histories=_shuffled(train.histories))
    known = {h.user_id: h for h in train.histories}
    pairs = [(known.get(own.user_id, own.before(0)), own) for own in test.histories]
    new = [np.setdiff1d(own.numbers, before.numbers) - 1 for before, own in pairs]
    asked = [(pair, rows) for pair, rows in zip(pairs, new, strict=True) if len(rows)]
    if not asked:
        raise InvalidData("no user of --test has an item that the same user does not have in --train")
    begins = int(np.quantile(_times(train.histories), 1 - HELD_OUT)) if train.has_times else 0
    if not _cut_all(train.histories, BeforeTime(begins)):  # all at one time, or at none
        begins = 0
    cut: Cut = BeforeTime(begins) if begins else BeforeLast()
    return Split(
        train.items,
        _cut_all(train.histories, cut),
        cases_after(train.histories, cut),
        train.histories,
        Cases(
            [before for (before, _), _ in asked],
            [rows for _, rows in asked],
            [int(own.times[0]) if ordered else 0 for (_, own), _ in asked],
        ),
        begins,
        users,
        {
            "left_out_users": len(pairs) - len(asked),
            "left_out_events": sum(len(own.numbers) for _, own in pairs) - sum(map(len, new)),
            "unknown_item_events": train.unknown + test.unknown,
        },
        notes,
        ordered,
    )


def _no_order(train: Log, test: Log, order: Order) -> str:
    """Why the order of events means nothing; empty if it means something."""
    if order is not Order.AUTO:
        return "as asked" if order is Order.NONE else ""
    for name, log in (("training", train), ("test", test)):
        if not log.has_times:
            return f"there are events of the {name} without a time"
    both = len({h.user_id for h in train.histories} & {h.user_id for h in test.histories})
    older = _older(train, test)
    if 2 * older <= both:
        return ""
    return f"{older} of {both} users have a test event before their newest training event"


def _older(train: Log, test: Log) -> int:
    """Users with a test event that is older than their newest training event."""
    newest = {h.user_id: int(h.times.max()) for h in train.histories}
    return sum(0 < int(own.times[0]) < newest.get(own.user_id, 0) for own in test.histories)


def _backwards(train: Log, test: Log) -> list[str]:
    """A note if tests are older than what is trained on."""
    users = _older(train, test)
    note = f"{users} users have a test event that is older than their newest training event"
    return [note] if users else []


def _shuffled(histories: Sequence[History]) -> list[History]:
    """Each in random order, without times."""
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(h.numbers)) for h in histories]
    return [
        History(h.user_id, h.numbers[order], h.types[order], np.zeros_like(h.times))
        for h, order in zip(histories, orders, strict=True)
    ]


def _cut_all(histories: Sequence[History], cut: Cut) -> list[History]:
    return [h.before(n) for h in histories if (n := cut(h))]


def _times(histories: Sequence[History]) -> NDArray[np.int64]:
    return np.concatenate([h.times for h in histories])


def _refuse_timeless(log: Log) -> None:
    if not log.has_times:
        raise InvalidData("a temporal split of events without times; use --protocol leave-one-out")
