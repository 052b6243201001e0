"""What `recsys evaluate recall` reads: a lake, a data set, or a file of sequences without times."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import ENGAGEMENT, EventType, Item
from recsys.datasets.catalogue import items_path, users_path
from recsys.datasets.opening import MAPPING_FILE
from recsys.items.item_table import read_items
from recsys.lake.first_of_each import first_of_each
from recsys.lake.forget import forgotten_users, is_forgotten
from recsys.lake.lake import TIME, days, read_day, write_parquet
from recsys.models.encoding import TYPE_NUMBERS
from training.evaluation.lake import imported
from training.features.sequences import SEQUENCE_SCHEMA, sequences
from training.two_tower.sequences import History, read_histories

SEQUENCES = "sequences_stable.txt"
_FILMS = "movies.dat"  # titles and genres, where they are next to the sequences
_TABLES = {".csv", ".tsv", ".parquet", ".json", ".jsonl", ".ndjson", ".inter"}


@dataclass(frozen=True)
class Log:
    """Users' engagements with the items of a catalogue, users by id or as the file has them."""

    histories: Sequence[History]
    items: Sequence[Item]
    users: Path | None = None  # the users' static attributes, users.parquet, if any user has some
    unknown: int = 0  # engagements with items that the catalogue lacks; they are left out

    @property
    def has_times(self) -> bool:
        return all(h.times.min(initial=1) > 0 for h in self.histories)


def read_log(path: Path, work: Path) -> Log:
    """Read what is at the path; a data set is imported into a lake at `work`, with its own times.

    Raises:
        InvalidData: nothing is there, it cannot be read, or nobody engaged with anything.
    """
    if (path / SEQUENCES).is_file():
        return read_sequences(path / SEQUENCES)
    is_table = path.suffix.lower() in _TABLES or (path.parent / MAPPING_FILE).exists()
    if path.is_file() and not is_table:
        return read_sequences(path)
    return lake_log(imported(path, work))


def lake_log(lake: Path) -> Log:
    """The engagements of a lake; read with numpy, where Spark would start longer.

    Raises:
        InvalidData: the lake has no items, or nobody engaged with one.
    """
    items = read_items(items_path(lake))
    forgotten = forgotten_users(lake)
    rows = [
        _without(forgotten, read_day(lake, day, columns=("user_id", "item_id", "type"))) for day in days(lake)
    ]
    table = sequences(pa.concat_tables(rows)) if rows else SEQUENCE_SCHEMA.empty_table()
    histories = list(read_histories(table, pa.array([item.item_id for item in items], pa.string())))
    if not histories:
        wanted = ", ".join(sorted(ENGAGEMENT))
        raise InvalidData(f"{lake}: no {wanted} events; import a data set: `recsys data import`")
    events = len(table.column("items").combine_chunks().flatten())
    users = users_path(lake)
    has_users = users.exists() and pq.ParquetFile(users).metadata.num_rows > 0
    known = sum(len(h.numbers) for h in histories)
    return Log(histories, items, users if has_users else None, events - known)


def _without(forgotten: Mapping[str, int], rows: pa.Table) -> pa.Table:
    """What `recsys features build` reads: not the rows of forgotten users that no compaction has removed yet."""
    if not forgotten:
        return rows
    pairs = zip(rows["user_id"].to_pylist(), rows[TIME].to_pylist(), strict=True)
    return rows.filter(
        pa.array([not is_forgotten(forgotten, user, at_ms) for user, at_ms in pairs], pa.bool_())
    )


def users_of_both(train: Log, test: Log, path: Path) -> Path | None:
    """The static attributes of either log's users, written to `path` if both have some; `train`'s of a user in both."""
    tables = [pq.read_table(log.users) for log in (train, test) if log.users]
    if len(tables) < 2:
        return train.users or test.users
    write_parquet(path, first_of_each(pa.concat_tables(tables), "user_id"))
    return path


def read_sequences(path: Path) -> Log:
    """Read a text file of `user item item …`, a user per line, oldest first, no times; or of `user:item item …`.

    Every event is taken for a rating. Titles and genres come from `movies.dat` next to it, if it is there.

    Raises:
        InvalidData: the file is missing, is not text, or a line breaks the layout.
    """
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidData(f"{path}: needs lines of `user item item …`: {error}") from None
    rows = list(_rows(path, lines))
    ids = sorted({item for _, own in rows for item in own})
    numbers = {item: number for number, item in enumerate(ids, start=1)}
    rating = TYPE_NUMBERS[EventType.RATING]
    histories = [
        History(
            user, np.array([numbers[i] for i in own]), np.full(len(own), rating), np.zeros(len(own), np.int64)
        )
        for user, own in rows
    ]
    known = _films(path.parent / _FILMS)
    return Log(histories, [known.get(item, Item(item)) for item in ids])


def _rows(path: Path, lines: Sequence[Sequence[str]]) -> Iterator[tuple[str, Sequence[str]]]:
    """Each line's user and items. The first word has the user and the first item if every line's has a colon."""
    has_colon = all(":" in words[0] for words in lines if words)
    seen: set[str] = set()
    for number, words in enumerate(lines, start=1):
        if not words:
            continue
        user, items = words[0], words[1:]
        if has_colon:
            user, _, first = words[0].partition(":")
            items = [first, *items] if first else items
        if not items or not user or user in seen:
            fault = "the user has a line already" if user in seen else "needs a user and at least one item"
            raise InvalidData(f"{path}, line {number}: {fault}; write `user item item …`, one line per user")
        seen.add(user)
        yield user, items
    if not seen:
        raise InvalidData(f"{path}: no lines of `user item item …`")


def _films(path: Path) -> dict[str, Item]:
    """`movies.dat` in MovieLens' layout, if it is there."""
    try:
        return dict(map(_film, path.read_text(encoding="latin-1").splitlines())) if path.exists() else {}
    except ValueError as error:
        raise InvalidData(f"{path}: needs lines of `id::title (year)::genre|genre`: {error}") from None


def _film(line: str) -> tuple[str, Item]:
    item_id, title, genres = line.split("::")
    name, _, year = title.rpartition(" (")
    return item_id, Item(item_id, name, tuple(genres.split("|")), attributes={"year": year.rstrip(")")})


def in_one_catalogue(train: Log, test: Log) -> tuple[Log, Log]:
    """Both with the items of either, so that a number means one item; `train`'s row of an item that both have."""
    known = {item.item_id for item in train.items}
    union = [*train.items, *(item for item in test.items if item.item_id not in known)]
    numbers = {item.item_id: number for number, item in enumerate(union, start=1)}
    of_test = np.array([0, *(numbers[item.item_id] for item in test.items)], np.int64)
    renumbered = [h._replace(numbers=of_test[h.numbers]) for h in test.histories]
    return replace(train, items=union), replace(test, items=union, histories=renumbered)
