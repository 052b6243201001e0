"""Import damaged files next to older data, and account for every row without asking the reader."""

import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from infra.evaluation.fault_injection.hostile.attacks import Broken
from infra.evaluation.fault_injection.imports.damage import PARQUET, TEXT, as_file
from infra.evaluation.fault_injection.imports.loaders import LOADERS, Loader
from recsys.contracts.changes import ItemChange
from recsys.contracts.errors import InvalidData
from recsys.contracts.events import Event, derived_id
from recsys.contracts.types import EventType, Item
from recsys.datasets.base import Tally
from recsys.datasets.catalogue import items_path
from recsys.datasets.changed import items_after
from recsys.datasets.importer import import_dataset
from recsys.datasets.opening import open_dataset
from recsys.items.item_table import read_items
from recsys.lake.lake import EVENTS, day_writer, events_table, files_of, write_parquet

_OLD_MS = 1_500_000_000_000
_EDITED = Item("edited", "changed through the API")
_NAME = "data"


@dataclass(frozen=True)
class Damaged:
    """The content of a file, and the ids of those of its rows that are as they were."""

    content: bytes
    sound: frozenset[str]

    @classmethod
    def of_text(cls, loader: Loader, content: bytes) -> "Damaged":
        delimiter = loader.format.delimiter.encode()
        rows = set(loader.lines()[loader.format.has_header :]).intersection(content.splitlines())
        return cls(content, frozenset(row.split(delimiter)[loader.key].decode() for row in rows))

    @classmethod
    def of_table(cls, loader: Loader, damaged: pa.Table | bytes) -> "Damaged":
        if isinstance(damaged, bytes):  # all or nothing
            return cls(
                damaged, frozenset(str(loader.row(n)[loader.key]) for n in range(len(loader.lines()) - 1))
            )
        before, after = (
            {str(row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)}
            for table in (loader.columns(), damaged)
        )
        ids = [row.strip("(").split(",")[0] for row in before & after]
        return cls(as_file(damaged), frozenset(ids))


def run(damage: str, folder: Path, seed: int = 0) -> str:
    """Import each data set that can have this damage. Returns what happened, in a line.

    Raises:
        Broken: a row is neither kept nor rejected, or something older is lost.
    """
    refused, rejected, kept = 0, 0, 0
    loaders = [loader for loader in LOADERS if loader.is_parquet == (damage in PARQUET)]
    for number, loader in enumerate(loaders):
        random = Random(zlib.crc32(f"{seed} {damage} {loader.name}".encode()))  # noqa: S311
        if loader.is_parquet:
            damaged = Damaged.of_table(loader, PARQUET[damage](loader.columns(), random))
        else:
            damaged = Damaged.of_text(loader, TEXT[damage](loader.lines(), loader.format, random))
        try:
            tally = check(loader, damaged, folder / str(number))
        except Broken as broken:
            raise Broken(f"{loader.name}: {broken}") from broken
        refused += tally is None
        kept += tally.kept if tally else 0
        rejected += tally.broken if tally else 0
    read = f"{len(loaders) - refused} files: {kept + rejected:,} rows = {kept:,} kept + {rejected:,} rejected"
    return "; ".join(
        [read] * (refused < len(loaders)) + [f"{refused} refused, lake unchanged"] * (refused > 0)
    )


def check(loader: Loader, damaged: Damaged, folder: Path) -> Tally | None:
    """Import the data set sound, then damaged; None if that is refused."""
    base = Path(_base(loader.name).name)
    data, lake = base / _NAME, folder / "lake"
    shutil.copytree(base / "lake", lake)
    before = _files(lake)
    (data / loader.file).write_bytes(damaged.content)
    try:
        report = import_dataset(open_dataset(data), lake)
    except InvalidData:
        if _files(lake) != before:
            raise Broken("refused, but the lake has changed") from None
        return None
    tally = report.files[loader.table][loader.file]
    _check_counts(loader, damaged.content, tally, lake)
    found = _ids(loader, lake)
    if gone := damaged.sound - found:
        raise Broken(f"{len(gone)} sound rows are neither kept nor rejected, one of them {min(gone)}")
    after = _files(lake)
    if any(after.get(name) != content for name, content in before.items() if "-older-" in name):
        raise Broken("events of another source were changed")
    if _EDITED not in read_items(items_path(lake)):
        raise Broken("an item that the API had changed was overwritten")
    return tally


@cache
def _base(name: str) -> TemporaryDirectory[str]:
    """The data set of that loader, sound, and a lake that has it next to older data; until the process ends."""
    base = TemporaryDirectory(prefix="recsys-imports-")
    data, lake = Path(base.name) / _NAME, Path(base.name) / "lake"
    next(loader for loader in LOADERS if loader.name == name).write(data)
    _write_others(lake)
    import_dataset(open_dataset(data), lake)
    return base


def _check_counts(loader: Loader, content: bytes, tally: Tally, lake: Path) -> None:
    if tally.rows != tally.kept + tally.broken:
        raise Broken(f"{tally.rows} rows, but {tally.kept} kept and {tally.broken} rejected")
    rejected = lake / "rejected" / f"import-{_NAME}.parquet"
    listed = (
        [row for row in pq.read_table(rejected).to_pylist() if row["file"] == loader.file]
        if tally.broken
        else []
    )
    if len({row["row"] for row in listed}) != tally.broken:
        raise Broken(f"{tally.broken} rejected, but {len(listed)} listed")
    if loader.is_parquet:
        if tally.rows != pq.read_metadata(pa.BufferReader(content)).num_rows:
            raise Broken(f"{tally.rows} rows of {pq.read_metadata(pa.BufferReader(content)).num_rows}")
        return
    lines = len(content.splitlines())
    counted = tally.rows + tally.blank + loader.format.has_header
    if tally.lines != lines or counted > lines or (counted < lines and b'"' not in content):
        raise Broken(f"{lines} lines in the file, {tally.lines} in the report, {counted} accounted for")


def _write_others(lake: Path) -> None:
    """What was there before: events of another import and of the archiver, and a change through the API."""
    event = Event(derived_id(_OLD_MS, "other"), EventType.CLICK, "other", "other", _OLD_MS)
    for name in ("import-older", "events-older"):
        with day_writer(lake, EVENTS, name) as writer:
            writer.write(events_table([event]))
    for path, table in items_after(lake, [ItemChange(_EDITED.item_id, _EDITED, _OLD_MS)]):
        write_parquet(lake / path, table)


def _files(lake: Path) -> Mapping[str, bytes]:
    found = (path for path in lake.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(lake)): path.read_bytes() for path in found}


def _ids(loader: Loader, lake: Path) -> set[str]:
    """The ids that the data set has in the lake."""
    if loader.table == "items":
        return {item.item_id for item in read_items(items_path(lake))}
    files = files_of(lake, EVENTS, f"import-{_NAME}")
    return {user for path in files for user in pq.read_table(path, partitioning=None)["user_id"].to_pylist()}
