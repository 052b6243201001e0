"""How a data set is split into training, validation and test.

* `leave_one_out`: each user's last item is the test, the one before it the validation; the tested model is trained on
  all but the tests. On MovieLens-1M's stable order this is the protocol of the published sequence models (SASRec,
  gSASRec, FuXi-α).
* `temporal`: everything before one moment is training, each new item after it a case, asked with all that the user did
  before. As in serving, the history advances and the model does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import ENGAGEMENT, EventType, Item
from recsys.lake.lake import days, read_day
from recsys.models.encoding import TYPE_NUMBERS
from training.features.sequences import SEQUENCE_SCHEMA, sequences
from training.two_tower.retrieval import Cases, cases_after
from training.two_tower.sequences import BeforeTime, Cut, History, before_last, read_histories

SEQUENCES = "sequences_stable.txt"


@dataclass(frozen=True)
class Split:
    """`train` ⊂ `refit`; the tests come after `refit`, the validation cases after `train`."""

    items: Sequence[Item]
    train: Sequence[History]
    validation: Cases
    refit: Sequence[History]
    test: Cases
    validation_from_ms: int = 0  # of a temporal split


def leave_one_out(histories: Sequence[History], items: Sequence[Item]) -> Split:
    """Raises `InvalidData` if a history is too short to be cut twice."""
    short = [h.user_id for h in histories if len(h.numbers) < 3]
    if short:
        raise InvalidData(f"users with fewer than 3 events: {', '.join(short[:5])}; leave them out")
    refit = _cut_all(histories, before_last)
    train = _cut_all(refit, before_last)
    return Split(items, train, cases_after(refit, before_last), refit, cases_after(histories, before_last))


def temporal(
    histories: Sequence[History],
    items: Sequence[Item],
    validation_from_ms: int,
    test_from_ms: int,
    wanted: EventType | None = None,
) -> Split:
    """`wanted`: ask only for items that got an event of this type, such as long views."""
    refit = _cut_all(histories, BeforeTime(test_from_ms))
    train = _cut_all(refit, BeforeTime(validation_from_ms))
    number = 0 if wanted is None else TYPE_NUMBERS[wanted]
    validation = cases_after(refit, BeforeTime(validation_from_ms), number)
    test = cases_after(histories, BeforeTime(test_from_ms), number)
    if not len(validation) or not len(test):
        raise InvalidData("a temporal split with no validation or test events; choose other times")
    return Split(items, train, validation, refit, test, validation_from_ms)


def temporal_shares(
    histories: Sequence[History], items: Sequence[Item], validation: float = 0.1, test: float = 0.1
) -> Split:
    """The newest share `test` of the events is the test, the share `validation` before it the validation."""
    times = np.concatenate([h.times for h in histories])
    begins = np.quantile(times, (1 - test - validation, 1 - test))
    return temporal(histories, items, int(begins[0]), int(begins[1]))


def _cut_all(histories: Sequence[History], cut: Cut) -> list[History]:
    return [h.before(n) for h in histories if (n := cut(h))]


def lake_histories(lake: Path, items: Sequence[Item]) -> list[History]:
    """Every user's engagements with known items, users by id; read with numpy, where Spark would start longer.

    Raises:
        InvalidData: the lake has no engagement.
    """
    rows = [read_day(lake, day, columns=("user_id", "item_id", "type")) for day in days(lake)]
    table = sequences(pa.concat_tables(rows)) if rows else SEQUENCE_SCHEMA.empty_table()
    if not table.num_rows:
        wanted = ", ".join(sorted(ENGAGEMENT))
        raise InvalidData(f"{lake}: no {wanted} events; import a data set: `recsys data import`")
    return list(read_histories(table, pa.array([item.item_id for item in items], pa.string())))


def read_ordered_sequences(folder: Path) -> tuple[list[History], list[Item]]:
    """Read `sequences_stable.txt` (lines `user:item item …`, oldest first, no times) and `movies.dat`.

    Raises:
        InvalidData: a file is missing or a line breaks the layout.
    """
    path = folder / SEQUENCES
    try:
        lines = [line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines() if line]
        sequences = [(user, items.split()) for user, items in lines]
        titles = (folder / "movies.dat").read_text(encoding="latin-1").splitlines()
    except (FileNotFoundError, ValueError) as error:
        raise InvalidData(
            f"{folder}: needs {SEQUENCES} and movies.dat in MovieLens' layout: {error}"
        ) from None
    known = dict(_movie(line) for line in titles)
    ids = sorted({item for _, items in sequences for item in items})
    numbers = {item: number for number, item in enumerate(ids, start=1)}
    rating = TYPE_NUMBERS[EventType.RATING]
    histories = [
        History(
            user, np.array([numbers[i] for i in own]), np.full(len(own), rating), np.zeros(len(own), np.int64)
        )
        for user, own in sequences
    ]
    return histories, [known.get(item, Item(item)) for item in ids]


def _movie(line: str) -> tuple[str, Item]:
    item_id, title, genres = line.split("::")
    name, _, year = title.rpartition(" (")
    return item_id, Item(item_id, name, tuple(genres.split("|")), attributes={"year": year.rstrip(")")})
