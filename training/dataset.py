"""Histories for the two-tower: sequence files → numbered histories → padded batches.

`features/sequences/*.parquet` has one row a user: `user_id`, `items`, `times`, `types` (lists, oldest first). The
files are read by row groups, memory-mapped, in an order drawn from (seed, epoch), so memory does not grow with the
data; a thread prepares batches ahead of the model. Histories of like length share a batch.
"""

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys.errors import InvalidData
from recsys.models.attributes import PROFILE_SLOTS, profile_rows
from recsys.models.encoding import EncodedHistory, encode_arrays
from recsys.types import MS_PER_SECOND, EventType, Item, User

SEQUENCE_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("items", pa.list_(pa.string()), nullable=False),
        pa.field("times", pa.list_(pa.int64()), nullable=False),
        pa.field("types", pa.list_(pa.string()), nullable=False),
    ]
)
T = TypeVar("T")
SAME_MOMENT_MS = MS_PER_SECOND
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

    def is_new(self, at: int) -> bool:
        """Whether event `at` is the first of its item. Serving filters seen items out: only new ones can be hit."""
        return not bool((self.numbers[:at] == self.numbers[at]).any())


# How many of a history's events are trained on; the one after them is the validation target.
Cut = Callable[[History], int]


def keep_all(history: History) -> int:
    return len(history.numbers)


def before_last(history: History) -> int:
    """Leave the last event out."""
    return len(history.numbers) - 1


@dataclass(frozen=True)
class BeforeTime:
    """Leave out what happened at `time_ms` or later."""

    time_ms: int

    def __call__(self, history: History) -> int:
        return int(np.searchsorted(history.times, self.time_ms))


def read_items(path: Path) -> list[Item]:
    """The item table, sorted by item id: an item's place in it is its row everywhere.

    Raises:
        InvalidData: the file is missing or lacks a column.
    """
    try:
        rows = pq.read_table(path).to_pylist()
        items = [
            Item(
                r["item_id"],
                r["title"],
                tuple(r["categories"]),
                r["creator"],
                r["created_ms"],
                dict(r["attributes"]),
            )
            for r in rows
        ]
    except FileNotFoundError:
        raise InvalidData(f"{path}: no item table; import a data set first: `recsys data import`") from None
    except (KeyError, pa.ArrowInvalid) as error:
        raise InvalidData(f"{path}: not an item table: {error}") from error
    return sorted(items, key=lambda item: item.item_id)


def write_sequences(
    path: Path, histories: Iterable[History], items: Sequence[Item], row_group: int = 1024
) -> None:
    """Write a sequence file: what the Spark job writes, for tests and for evaluation splits."""
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
            raise InvalidData(f"{folder}: no sequence files; make them with `recsys features build`")
        self._files = [pq.ParquetFile(path, memory_map=True) for path in paths]
        self._groups = [(f, g) for f, file in enumerate(self._files) for g in range(file.num_row_groups)]
        self._ids = pa.array([item.item_id for item in items], pa.string())
        self.users = sum(file.metadata.num_rows for file in self._files)

    def read(self, rng: np.random.Generator | None = None) -> Iterator[History]:
        """Every history that has a known item; row groups in an order drawn from `rng`, or as stored."""
        order = np.arange(len(self._groups)) if rng is None else rng.permutation(len(self._groups))
        for at in order:
            file, group = self._groups[at]
            yield from self._histories(self._files[file].read_row_group(group, SEQUENCE_SCHEMA.names))

    def _histories(self, table: pa.Table) -> Iterator[History]:
        users = table.column("user_id").to_pylist()
        lists = {name: table.column(name).combine_chunks() for name in ("items", "times", "types")}
        bounds = np.asarray(lists["items"].offsets) - lists["items"].offsets[0].as_py()
        found = pc.fill_null(pc.index_in(lists["items"].flatten(), value_set=self._ids), -1)
        kinds = pc.index_in(lists["types"].flatten(), value_set=_TYPE_NAMES)
        if kinds.null_count:
            raise InvalidData("sequences: a type is not an event type; rebuild them: `recsys features build`")
        numbers = np.asarray(found, np.int64) + 1
        types, times = np.asarray(kinds, np.int64) + 1, np.asarray(lists["times"].flatten(), np.int64)
        for user, start, end in zip(users, bounds[:-1], bounds[1:], strict=True):
            known = start + np.flatnonzero(numbers[start:end])
            if len(known):
                yield History(user, numbers[known], types[known], times[known])


class Profiles:
    """The static attributes of known users, as rows of the two-tower's table."""

    def __init__(self, users: Iterable[User] = (), names: Collection[str] = ()) -> None:
        """`names`: the attributes that serving keeps; others are left out."""
        kept = {u.user_id: {n: v for n, v in u.attributes.items() if n in names} for u in users}
        self._rows = {user_id: profile_rows(known) for user_id, known in kept.items() if known}
        self._none = np.zeros(PROFILE_SLOTS, np.int64)

    def of(self, histories: Iterable[History]) -> NDArray[np.int64]:
        """(B, PROFILE_SLOTS) int64; zeros for users of whom nothing is known."""
        return np.stack([self._rows.get(h.user_id, self._none) for h in histories])


class Batch(NamedTuple):
    """Inputs and the item that followed each position. Each (B, L) int64, left-padded; target 0: none there.

    profile: (B, PROFILE_SLOTS) int64.
    """

    history: NDArray[np.int64]
    types: NDArray[np.int64]
    gaps: NDArray[np.int64]
    targets: NDArray[np.int64]
    profile: NDArray[np.int64]

    @property
    def n_targets(self) -> int:
        return int(np.count_nonzero(self.targets))

    def shard(self, rank: int, world: int) -> "Batch":
        """The rows of one of `world` processes."""
        arrays = (self.history, self.types, self.gaps, self.targets, self.profile)
        return Batch(*(array[rank::world] for array in arrays))


@dataclass(frozen=True)
class Targets:
    """Which events of a history are predicted.

    An item that the user has had before is no target: serving filters seen items out, and the click, like and
    purchase of one exposure would teach the model to repeat the newest item.

    wanted: event type number; only items that got such an event within `SAME_MOMENT_MS` of their first one are
        targets (a long view follows its click). 0: any type.
    half_life_ms: an event so long before `newest_ms` is a target in every second epoch only, one twice as long
        before in every fourth, and so on: what is liked changes. 0: every event, always.
    """

    wanted: int = 0
    half_life_ms: float = 0.0
    newest_ms: int = 0

    def of(self, history: History, rng: np.random.Generator) -> NDArray[np.bool_]:
        """(n,) bool."""
        n = len(history.numbers)
        _, first, item = np.unique(history.numbers, return_index=True, return_inverse=True)
        chosen = np.zeros(n, np.bool_)
        if self.wanted:
            begun = first[item]  # where each event's item was first met
            at_once = history.times - history.times[begun] < SAME_MOMENT_MS
            chosen[begun[at_once & (history.types == self.wanted)]] = True
        else:
            chosen[first] = True
        if self.half_life_ms:
            age = np.maximum(self.newest_ms - history.times, 0)
            chosen &= rng.random(n) < 0.5 ** (age / self.half_life_ms)
        return chosen


def make_batch(
    histories: Sequence[History],
    max_length: int,
    targets_of: Targets | None = None,
    rng: np.random.Generator | None = None,
    profiles: Profiles | None = None,
) -> Batch:
    """Every target is predicted from the events before it; the first of all from an empty history."""
    chosen, rng = targets_of or Targets(), rng or np.random.default_rng(0)
    length = min(max(len(h.numbers) for h in histories), max_length)
    targets = np.zeros((len(histories), length), np.int64)
    encoded: list[EncodedHistory] = []
    for row, h in enumerate(histories):
        n = min(len(h.numbers), length)
        targets[row, -n:] = np.where(chosen.of(h, rng), h.numbers, 0)[-n:]
        encoded.append(encode_arrays(h.numbers[:-1], h.types[:-1], h.times[:-1], int(h.times[-1]), length))
    history, types, gaps = (np.stack(arrays) for arrays in zip(*encoded, strict=True))
    return Batch(history, types, gaps, targets, (profiles or Profiles()).of(histories))


class Windows(StrEnum):
    """What an epoch trains on of a history that is longer than a batch's width."""

    ALL = "all"  # consecutive windows, so that every event is a target once
    NEWEST = "newest"  # the newest window alone: no user counts for more than that


@dataclass(frozen=True)
class BatchPlan:
    """How histories become batches. `tokens`: positions a batch, padding included."""

    max_length: int
    tokens: int
    windows: Windows = Windows.ALL
    targets: Targets = Targets()
    profiles: Profiles | None = None
    shuffled_users: int = 8192  # held in memory to shuffle
    pooled_users: int = 1024  # of these, histories of like length share a batch


def epoch_batches(
    files: SequenceFiles,
    cut: Cut,
    plan: BatchPlan,
    seed: int,
    epoch: int,
    change: Callable[..., History] | None = None,
) -> Iterator[tuple[Batch, int]]:
    """One epoch's batches and how many histories were read up to each; the same for the same (seed, epoch).

    `change(history, rng)` augments a history before it is cut to length.
    """
    rng = np.random.default_rng((seed, epoch))
    seen = 0
    for pool in _chunks(files.read(rng), plan.shuffled_users):
        order = rng.permutation(len(pool))
        batches: list[list[History]] = []
        for start in range(0, len(pool), plan.pooled_users):
            windows: list[History] = []
            for at in order[start : start + plan.pooled_users]:
                history = pool[at].before(cut(pool[at]))
                if change is not None:
                    history = change(history, rng)
                windows += _windows(history, plan)
            batches += _by_length(windows, plan)
        share = len(pool) / max(len(batches), 1)
        for done, at in enumerate(rng.permutation(len(batches)), start=1):
            batch = make_batch(batches[at], plan.max_length, plan.targets, rng, plan.profiles)
            if batch.n_targets:
                yield batch, seen + round(done * share)
        seen += len(pool)


def _windows(history: History, plan: BatchPlan) -> Iterator[History]:
    """The history up to the end of each window; `make_batch` keeps the newest `max_length` of each."""
    n = len(history.numbers)
    if n and plan.windows is Windows.NEWEST:
        yield history
    elif n:
        yield from (history.before(end) for end in range(n, 0, -plan.max_length))


def _by_length(histories: list[History], plan: BatchPlan) -> list[list[History]]:
    batches: list[list[History]] = []
    histories.sort(key=lambda h: len(h.numbers))
    for history in histories:
        width = min(len(history.numbers), plan.max_length)
        if not batches or (len(batches[-1]) + 1) * width > plan.tokens:
            batches.append([])
        batches[-1].append(history)
    return batches


def _chunks(histories: Iterator[History], size: int) -> Iterator[list[History]]:
    chunk: list[History] = []
    for history in histories:
        chunk.append(history)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def timed(source: Iterator[T]) -> Iterator[tuple[T, float]]:
    """Each item with the seconds of processor time that the thread took to make it."""
    while True:
        began = time.thread_time()
        try:
            item = next(source)
        except StopIteration:
            return
        yield item, time.thread_time() - began


def prefetched(source: Iterator[T], ahead: int = 8) -> Iterator[T]:
    """The same items, prepared by a thread while the model computes. An error in the thread is raised here."""
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(ahead)
    stop = threading.Event()

    def put(entry: tuple[bool, Any]) -> bool:
        while not stop.is_set():
            try:
                ready.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in source:
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))

    threading.Thread(target=work, name="prefetch", daemon=True).start()
    try:
        while True:
            good, item = ready.get()
            if good:
                yield item
            elif item is None:
                return
            else:
                raise item
    finally:
        stop.set()
