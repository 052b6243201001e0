"""The examples of a lake in three periods, and what else is known of the rows that are judged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.contracts.types import EventType, Item
from recsys.features.definitions import FEATURES
from recsys.lake.lake import TIME, day_of, days, newest_days, read_day
from training.compression.configs import HISTORY_LENGTH
from training.evaluation.ranking.split import PERIODS, TimeSplit
from training.ranker.dataset import (
    COLUMNS,
    RankExamples,
    examples_of,
    fragments,
    read_rows,
    rows_of_days,
)
from training.ranker.fit_taste import Fitted, TasteOffsets, learn_taste
from training.ranker.train import labels_by_head

_MORE = ("example_id", "request_id", "sampled")
_JUDGED = ("user_id", "position", TIME, *_MORE)
_KEY = ("user_id", "event_id")


@dataclass(frozen=True)
class Periods:
    """`rows` by period; the features of a ranker with a taste model end with its offsets. The test has impressions
    alone, unless the log has none there.

    positions: (n,) by period, -1 where there is none. requests: (n,) of the test rows, equal within a list.
    impressions: whether the log has some there. drawn: test rows that are drawn negatives. not_shown: rows of the test
    period that are left out of it. not_read: examples older than the newest days.
    """

    rows: Mapping[str, RankExamples]
    positions: Mapping[str, NDArray[np.int64]]
    requests: NDArray[np.int64]
    impressions: bool
    drawn: int
    not_shown: int
    not_read: int
    taste: Fitted | None

    @property
    def features(self) -> list[NDArray[np.float32]]:
        """(n, D) the served features of each period."""
        return [rows.features[:, : FEATURES.dimension] for rows in self.rows.values()]

    def labels(self, period: str) -> dict[str, NDArray[np.float64]]:
        """0/1 of each probability head, over all rows."""
        by_head = labels_by_head(self.rows[period])
        return {str(head): (column > 0).astype(np.float64) for head, column in by_head.items()}


def read_periods(
    folder: Path, lake: Path, items: Sequence[Item], split: TimeSplit, newest: int, seed: int
) -> Periods:
    """Read the newest days of `folder` that have `newest` examples.

    Args:
        folder: of the examples; lake: that they were built from; items: its item table.
        seed: of what the taste model draws.

    Raises:
        InvalidData: there are no examples, or too few for the split.
    """
    of_days = rows_of_days(folder)
    wanted = newest_days(of_days, newest)
    times = np.sort(np.concatenate([np.asarray(part[TIME]) for part in fragments(folder, [TIME], wanted)]))
    first, second = split.bounds(times)
    before = of_days.total() - len(times)
    # of the training rows alone, as the ranker's weights
    taste = learn_taste(folder, items, (before + first) / of_days.total(), seed)
    offset = TasteOffsets(taste.taste, items) if taste else None
    table = read_rows(folder, (*COLUMNS, *_MORE), wanted, offset)
    rows = examples_of(table, [item.item_id for item in items], FEATURES.dimension, HISTORY_LENGTH)
    table = table.select(_JUDGED)
    shown = is_shown(table.slice(second), lake)
    judged = shown if shown.any() else np.ones(len(shown), bool)
    test = table.slice(second).filter(pa.array(judged))
    parts: list[Any] = [slice(0, first), slice(first, second), second + np.flatnonzero(judged)]
    positions = np.asarray(pc.fill_null(table["position"], -1), np.int64)
    return Periods(
        rows={period: rows.take(part) for period, part in zip(PERIODS, parts, strict=True)},
        positions={period: positions[part] for period, part in zip(PERIODS, parts, strict=True)},
        requests=requests(test),
        impressions=bool(shown.any()),
        drawn=pc.sum(test["sampled"]).as_py(),
        not_shown=int((~judged).sum()),
        not_read=before,
        taste=taste,
    )


def requests(rows: pa.Table) -> NDArray[np.int64]:
    """(n,) a number for each list: a user's request; without one, a user's rows of one instant."""
    users, named, times = (
        np.asarray(rows[name].combine_chunks().dictionary_encode().indices.fill_null(-1), np.int64)
        for name in ("user_id", "request_id", TIME)
    )
    lists = np.where(named >= 0, named, named.max(initial=0) + 1 + times)
    return np.asarray(users * (lists.max(initial=0) + 1) + lists)


def is_shown(rows: pa.Table, lake: Path) -> NDArray[np.bool_]:
    """(n,) whether each example is an impression of the log, and not a rating or a drawn negative."""
    first, last = (day_of(time) for time in pc.min_max(rows[TIME]).as_py().values())
    found = []
    for day in days(lake):
        if first <= day <= last:
            events = read_day(lake, day, columns=(*_KEY, "type"))
            found.append(events.filter(pc.equal(events["type"], EventType.IMPRESSION)).select(_KEY))
    known = pa.concat_tables(found)
    ids = pc.binary_join_element_wise(known["user_id"], known["event_id"], "\0")
    wanted = pc.binary_join_element_wise(rows["user_id"], rows["example_id"], "\0")
    return np.asarray(pc.is_in(wanted, value_set=ids.combine_chunks()), bool)
