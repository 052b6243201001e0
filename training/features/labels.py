"""Labelled impressions, without their features: who was shown what, and what followed.

`recsys.contracts.attribution` says which impression an outcome belongs to. An order is a click, in a log without
clicks, too; a view labels nothing. In logs without impressions (ratings), each engagement that no impression accounts
for is a positive, with negatives that are drawn (`training.features.negatives`); a dislike is a negative itself. They
have no served vector; that is one reason why features are recomputed (ADR 11).

Runs on a bucket of users in Spark's executors: numpy and Arrow only.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.contracts.types import GOOD_STARS, GREAT_STARS, MS_PER_DAY, EventType
from recsys.features.definitions import STARRED
from training.features.arrow_columns import TIME, sorted_events
from training.features.negatives import Popularity, negatives
from training.features.user_log import UserLog, any_of, code_of

NO_POSITION = -1

_CLICKED = frozenset({EventType.CLICK, EventType.ADD_TO_CART, EventType.PURCHASE})

# What an event says about its item; the later passes read it from the example.
ITEM_CONTEXT = ("categories", "creator")
# What the passes read of an event besides its context.
EVENT_COLUMNS = ("event_id", "type", "user_id", "item_id", TIME, "request_id", "position", "value")


@dataclass(frozen=True)
class LabelConfig:
    """`first_ms` ≤ time of an example < `end_ms`. `unshown`: types that are examples without an impression.
    `only_named`: types that belong to an impression only by the request that they name."""

    first_ms: int
    end_ms: int
    window_ms: int = MS_PER_DAY
    unshown: frozenset[EventType] = STARRED
    only_named: frozenset[EventType] = frozenset()
    negatives: int = 4
    seed: int = 0


def example_schema(context: tuple[str, ...]) -> pa.Schema:
    """Columns of an example without features; `context`: the columns of request attributes that features read."""
    ids = ("example_id", "request_id", "user_id", "item_id")
    columns: dict[str, pa.DataType] = dict.fromkeys(ids, pa.string())
    columns |= {TIME: pa.int64(), "position": pa.int64()}
    columns |= dict.fromkeys(("click", "conversion", "like"), pa.int8())
    columns |= {"dwell_ms": pa.int64(), "sampled": pa.bool_()}
    return pa.schema(columns | dict.fromkeys((*ITEM_CONTEXT, *context), pa.string()))


def label(
    rows: pa.Table, config: LabelConfig, context: tuple[str, ...] = (), popularity: Popularity | None = None
) -> pa.Table:
    """The examples of some users' events (all of theirs up to `end_ms + window_ms`), by user and time."""
    rows = sorted_events(rows, "user_id")
    log = UserLog(rows)
    shown = np.flatnonzero(log.kind == code_of(EventType.IMPRESSION))
    outcome = np.flatnonzero(log.kind != code_of(EventType.IMPRESSION))
    by_request = log.owner(shown, outcome, log.request, config.window_ms)
    by_item = log.owner(shown, outcome, log.pair, config.window_ms)
    by_item[any_of(log.kind[outcome], config.only_named)] = -1
    owner = np.where(log.request[outcome] >= 0, by_request, by_item)

    loose = outcome[owner < 0]
    allowed = any_of(log.kind[loose], config.unshown) & (log.request[loose] < 0)
    alone = log.first_of_each(loose[allowed], config.window_ms)
    loose_owner = log.owner(alone, loose, log.pair, config.window_ms)

    positives = np.concatenate((shown, alone))
    effects = np.concatenate((outcome, loose))
    owners = np.concatenate((owner, np.where(loose_owner >= 0, loose_owner + shown.size, -1)))
    table = _labelled(rows, log, positives, effects[owners >= 0], owners[owners >= 0], context)
    wanted = (log.time[positives] >= config.first_ms) & (log.time[positives] < config.end_ms)
    examples = table.filter(pa.array(wanted))
    if popularity is None or not config.negatives:
        return examples
    chosen = log.kind[alone] != code_of(EventType.DISLIKE)
    of_choices = np.concatenate((np.zeros(shown.size, bool), chosen))[wanted]
    choices = examples.filter(pa.array(of_choices))
    drawn = negatives(choices, log, popularity, config.negatives, config.window_ms, config.seed)
    return pa.concat_tables([examples, drawn])


def _labelled(
    rows: pa.Table,
    log: UserLog,
    positives: NDArray[np.intp],
    effects: NDArray[np.intp],
    owners: NDArray[np.int64],
    context: tuple[str, ...],
) -> pa.Table:
    """One row for each of `positives`; `effects[i]` happened because of positives[owners[i]]."""
    kind, value, n = log.kind[effects], log.value[effects], positives.size
    rated = kind == code_of(EventType.RATING)
    clicked = rated | any_of(kind, _CLICKED)
    converted = (kind == code_of(EventType.PURCHASE)) | (rated & (value >= GOOD_STARS))
    liked = (kind == code_of(EventType.LIKE)) | (rated & (value >= GREAT_STARS))
    dwelt = (kind == code_of(EventType.DWELL)) & (value > 0)
    dwell = np.bincount(owners[dwelt], np.rint(value[dwelt]), minlength=n).astype(np.int64)

    def flag(chosen: NDArray[np.bool_]) -> pa.Array:
        return pa.array((np.bincount(owners[chosen], minlength=n) > 0).astype(np.int8))

    picked = rows.take(pa.array(positives))
    columns = {
        "example_id": picked.column("event_id"),
        **{name: picked.column(name) for name in ("request_id", "user_id", "item_id", TIME)},
        "position": pc.cast(pc.fill_null(picked.column("position"), NO_POSITION), pa.int64()),
        "click": flag(clicked),
        "conversion": flag(converted),
        "like": flag(liked),
        "dwell_ms": pa.array(dwell),
        "sampled": pa.array(np.zeros(n, bool)),
        **{name: picked.column(name) for name in (*ITEM_CONTEXT, *context)},
    }
    return pa.table(columns).cast(example_schema(context))
