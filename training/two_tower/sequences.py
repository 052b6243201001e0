"""Users' histories, read from the sequence files that `recsys features build` wrote (`features/sequences/*.parquet`).

The files are memory-mapped and read by row groups in random order, so memory does not grow with the data.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import EventType, Item, User
from recsys.models.attributes import PROFILE_SLOTS, profile_rows
from training.features.sequences import SEQUENCE_SCHEMA

_TYPE_NAMES = pa.array([str(t) for t in EventType])


class History(NamedTuple):
    """One user's events, oldest first. Each array (n,) int64; items and types as `recsys.models.encoding` numbers."""

    user_id: str
    numbers: NDArray[np.int64]
    types: NDArray[np.int64]
    times: NDArray[np.int64]  # Unix milliseconds, 0 where unknown

    def before(self, cut: int) -> "History":
        """The first `cut` events."""
        return History(self.user_id, self.numbers[:cut], self.types[:cut], self.times[:cut])


# How many events of a history are trained on; the next one is the validation target.
Cut = Callable[[History], int]


def keep_all(history: History) -> int:
    return len(history.numbers)


@dataclass(frozen=True)
class BeforeTime:
    """Leave out what happened at `time_ms` or later."""

    time_ms: int

    def __call__(self, history: History) -> int:
        return int(np.searchsorted(history.times, self.time_ms))


def write_sequences(
    path: Path, histories: Iterable[History], items: Sequence[Item], row_group: int = 1024
) -> None:
    """Write a sequence file as the Spark job does, for tests and evaluation splits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = np.array([item.item_id for item in items], dtype=object)
    names = np.array(_TYPE_NAMES.to_pylist(), dtype=object)
    columns: dict[str, list[Any]] = {name: [] for name in SEQUENCE_SCHEMA.names}
    for history in histories:
        columns["user_id"].append(history.user_id)
        columns["items"].append(ids[history.numbers - 1])
        columns["times"].append(history.times)
        columns["types"].append(names[history.types - 1])
    pq.write_table(
        pa.table(columns, schema=SEQUENCE_SCHEMA), path, row_group_size=row_group, compression="zstd"
    )


class SequenceFiles:
    """The sequence files of a folder, read by row groups."""

    def __init__(self, folder: Path, items: Sequence[Item]) -> None:
        """
        Raises:
            InvalidData: the folder has no sequence files.
        """
        paths = sorted(folder.glob("[!._]*.parquet"))
        if not paths:
            raise InvalidData(f"{folder}: no sequence files; build them with `recsys features build`")
        self._files = [pq.ParquetFile(path, memory_map=True) for path in paths]
        self._groups = [(f, g) for f, file in enumerate(self._files) for g in range(file.num_row_groups)]
        self._ids = pa.array([item.item_id for item in items], pa.string())
        self.users = sum(file.metadata.num_rows for file in self._files)

    def read(self, rng: np.random.Generator | None = None) -> Iterator[History]:
        """Every history that has a known item; row groups in an order drawn from `rng`, or as stored."""
        order = np.arange(len(self._groups)) if rng is None else rng.permutation(len(self._groups))
        for at in order:
            file, group = self._groups[at]
            table = self._files[file].read_row_group(group, SEQUENCE_SCHEMA.names)
            yield from read_histories(table, self._ids)


def read_histories(table: pa.Table, ids: pa.Array) -> Iterator[History]:
    """The rows of a table in `SEQUENCE_SCHEMA` that have a known item; `ids`: the item table's, in its order."""
    lists = {name: table.column(name).combine_chunks() for name in ("items", "times", "types")}
    bounds = np.asarray(lists["items"].offsets) - lists["items"].offsets[0].as_py()
    found = pc.fill_null(pc.index_in(lists["items"].flatten(), value_set=ids), -1)
    kinds = pc.index_in(lists["types"].flatten(), value_set=_TYPE_NAMES)
    if kinds.null_count:
        raise InvalidData("sequences: unknown event type; rebuild them with `recsys features build`")
    numbers = np.asarray(found, np.int64) + 1
    types, times = np.asarray(kinds, np.int64) + 1, np.asarray(lists["times"].flatten(), np.int64)
    for user, start, end in zip(table.column("user_id").to_pylist(), bounds[:-1], bounds[1:], strict=True):
        known = start + np.flatnonzero(numbers[start:end])
        if len(known):
            yield History(user, numbers[known], types[known], times[known])


class Profiles:
    """The static attributes of known users, as rows of the two-tower's table."""

    def __init__(self, users: Iterable[User] = (), names: Collection[str] = ()) -> None:
        """`names`: the attributes that serving keeps; others are left out."""
        served = {u.user_id: {n: v for n, v in u.attributes.items() if n in names} for u in users}
        self._rows = {user_id: profile_rows(known) for user_id, known in served.items() if known}
        self._none = np.zeros(PROFILE_SLOTS, np.int64)

    def of(self, histories: Iterable[History]) -> NDArray[np.int64]:
        """(B, PROFILE_SLOTS) int64; zeros for unknown users."""
        return np.stack([self._rows.get(h.user_id, self._none) for h in histories])
