"""From frames to a lake, by the way of every other data set: Parquet files with a mapping, guessed or given."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from infra.notebook.frames import Frame, table_of
from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.contracts.types import ENGAGEMENT
from recsys.datasets.guessing import Guess, guess_mapping
from recsys.datasets.importer import import_dataset
from recsys.datasets.mapping import Mapping as TableMapping
from recsys.datasets.mapping import read_mapping
from recsys.datasets.opening import MAPPING_FILE, open_dataset
from recsys.datasets.report import ImportReport
from recsys.files import atomic_write
from recsys.lake.lake import write_parquet

NAME = "frames"  # of the data set
_EVENTS, _ITEMS, _USERS = "events", "items", "users"
# role → the name by which a column is surely taken for it (`recsys.datasets.guess_words`)
ROLES: Mapping[str, str] = {
    "user_id": "user_id",
    "item_id": "item_id",
    "time": "timestamp",
    "type": "event",
    "rating": "rating",
    "price": "price",
    "dwell_ms": "dwell_ms",
    "request_id": "request",
    "position": "position",
    "title": "title",
    "categories": "categories",
    "creator": "creator",
    "created": "created",
}


@dataclass(frozen=True)
class Imported:
    """What became of the frames. `doubts`: what a person should look at."""

    report: ImportReport
    mapping: TableMapping
    doubts: list[str]


def import_frames(
    frames: Mapping[str, Frame],
    folder: Path,
    lake: Path,
    columns: Mapping[str, str],
    mapping: TableMapping | Path | str | None,
    end_ms: int | None,
    progress: Callable[[str, int], None],
) -> Imported:
    """Write the frames and their mapping to `folder`, as a data set that `recsys data import` reads, and import it.

    Args:
        frames: by table: events, and perhaps items and users.
        columns: role → column, where the guess would take another one.
        mapping: in place of a guess; its `files` are replaced.
        end_ms: as of `import_dataset`.

    Raises:
        InvalidData: a frame cannot be used; it says why.
        InvalidConfig: a role is unknown, or both `columns` and `mapping` are given.
    """
    if columns and mapping is not None:
        raise InvalidConfig("columns, mapping: a mapping names all columns; leave one of them")
    tables = {name: table_of(frame, name) for name, frame in frames.items()}
    tables = _renamed(tables, columns)
    for name, table in tables.items():
        write_parquet(_file(folder, name), table)
    if mapping is None:
        guess = guess_mapping([_file(folder, name) for name in tables])
        _check(guess, tables, columns)
        found, doubts = guess.mapping, list(guess.doubts)
    else:
        given = mapping if isinstance(mapping, TableMapping) else read_mapping(Path(mapping))
        found, doubts = _of_frames(given, tables), []
    atomic_write(folder / MAPPING_FILE, Guess(folder, found, doubts).to_yaml())
    report = import_dataset(open_dataset(folder), lake, replace=True, end_ms=end_ms, progress=progress)
    if not ENGAGEMENT & report.events_by_type.keys():
        kinds = ", ".join(f"{kind} ({n:,})" for kind, n in report.events_by_type.items())
        raise InvalidData(
            f"events: nobody engages with an item, there are only {kinds}; say which column tells what was done:"
            " columns={'type': …} or {'rating': …}, or give a mapping"
        )
    return Imported(report, found, doubts + _losses(report))


def id_types(folder: Path) -> tuple[pa.DataType, pa.DataType]:
    """Of users and items, as the frame of events had them: integers or text. Text, if `folder` has no frames."""
    try:
        mapping = read_mapping(folder / MAPPING_FILE).events
        schema = pq.read_schema(_file(folder, _EVENTS))
    except (FileNotFoundError, InvalidConfig):
        return pa.string(), pa.string()
    kinds = (schema.field(column).type for column in (mapping.user, mapping.item))
    user, item = (kind if pa.types.is_integer(kind) else pa.string() for kind in kinds)
    return user, item


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.parquet"


def _renamed(tables: Mapping[str, pa.Table], columns: Mapping[str, str]) -> dict[str, pa.Table]:
    """Each named column under the name of its role; another column of that name is left out."""
    for role, column in columns.items():
        if role not in ROLES:
            raise InvalidConfig(
                f"columns: no role {role!r}{nearest(role, ROLES)}; there are {', '.join(ROLES)}"
            )
        if not any(column in table.column_names for table in tables.values()):
            have = "; ".join(f"{name} has {', '.join(table.column_names)}" for name, table in tables.items())
            raise InvalidData(f"columns: {role}: no frame has a column {column!r}: {have}")
    names = {column: ROLES[role] for role, column in columns.items()}
    if len(names) < len(columns):
        raise InvalidConfig(
            "columns: two roles name the same column; rename it in one frame, or give a mapping"
        )
    renamed = {}
    for name, table in tables.items():
        taken = {names[column] for column in table.column_names if column in names}
        kept = [c for c in table.column_names if c in names or c not in taken]
        renamed[name] = table.select(kept).rename_columns([names.get(column, column) for column in kept])
    return renamed


def _check(guess: Guess, tables: Mapping[str, pa.Table], columns: Mapping[str, str]) -> None:
    """Raises `InvalidData`: a frame was not taken for what it is, or a named column could not be read as its role."""
    for name in tables:
        mapped = getattr(guess.mapping, name)
        if mapped is None or list(mapped.files) != [f"{name}.parquet"]:
            key = "user_id" if name == _USERS else "item_id"
            raise InvalidData(
                f"{name}: its columns are {', '.join(tables[name].column_names)}, and none can be told to have the ids,"
                f" once each, that the events name; say which: columns={{{key!r}: …}}, or give a mapping"
            )
    used = {column.column for of_table in guess.columns.values() for column in of_table}
    for role, column in columns.items():
        if ROLES[role] not in used:
            raise InvalidData(
                f"columns: {role}: the values of {column!r} cannot be read as that (docs/data.md describes each role)"
            )


def _of_frames(mapping: TableMapping, tables: Mapping[str, pa.Table]) -> TableMapping:
    """The mapping, reading the frames' files."""
    parts = {}
    for name in (_EVENTS, _ITEMS, _USERS):
        part = getattr(mapping, name)
        if name in tables and part is None:
            raise InvalidConfig(
                f"mapping: has no {name}, but there is such a frame; add them, or leave the frame out"
            )
        own = {"files": [f"{name}.parquet"], "columns": None}
        parts[name] = part.model_copy(update=own) if name in tables else None
    return mapping.model_copy(update=parts)


def _losses(report: ImportReport) -> list[str]:
    """What is not used of the frames' rows, and what is likely to be wrong."""
    doubts = list(report.notes)
    if report.broken:
        reasons = ", ".join(f"{reason} ({rows:,})" for reason, rows in report.broken_by_reason.most_common(3))
        doubts.append(f"{report.broken:,} rows are left out: {reasons}")
    if unknown := report.unknown_items:
        doubts.append(
            f"{len(unknown):,} items of {unknown.total():,} events are not in `items`; they are never recommended"
        )
    return doubts


def nearest(name: str, names: Iterable[str]) -> str:
    """For a message: the names that an unknown one may stand for."""
    found = difflib.get_close_matches(name, list(names))
    return f"; did you mean {' or '.join(found)}?" if found else ""
