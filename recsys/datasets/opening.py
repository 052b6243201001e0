"""Recognise the data set at a path."""

import re
from collections.abc import Callable
from pathlib import Path

from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.datasets.base import Dataset
from recsys.datasets.formats import FORMATS, KUAIRAND, TABLE
from recsys.datasets.kuairand import HISTORY, KuaiRand, kuairand
from recsys.datasets.kuairand import looks_like as is_kuairand
from recsys.datasets.mapper import MappedDataset
from recsys.datasets.mapping import Mapping, read_mapping
from recsys.datasets.movielens import movielens_1m, movielens_100k, movielens_csv, recbole

MAPPING_FILE = "mapping.yaml"
# format → a file that identifies it, how that begins (other data sets have a ratings.csv, too), its mapping
_LAYOUTS: dict[str, tuple[str, bytes, Callable[[Path], Mapping]]] = {
    "movielens-100k": ("u.data", b"", movielens_100k),
    "movielens-1m": ("ratings.dat", b"", movielens_1m),
    "movielens-csv": ("ratings.csv", b"userId,movieId,", movielens_csv),
    "recbole": ("*.inter", b"", recbole),
}


def open_dataset(
    path: Path, layout: str | None = None, mapping: Path | None = None, name: str | None = None
) -> Dataset:
    """Open the data set in a folder, recognised by its files.

    Args:
        path: the folder; with a mapping, also a single table.
        layout: one of `FORMATS`; None: recognise it.
        mapping: a YAML mapping of the user's own tables; None: the folder's `mapping.yaml`, if any.
        name: of the data set; None: that of the folder or the table.

    Raises:
        InvalidData: no known data set, or several; the message lists what was looked for.
        InvalidConfig: an unknown layout, an unusable name, or an invalid mapping.
    """
    if layout is not None and layout not in FORMATS:
        raise InvalidConfig(f"unknown format {layout!r}: use one of {', '.join(FORMATS)}")
    if not path.exists():
        raise InvalidData(f"{path}: no such file or folder")
    folder = path if path.is_dir() else path.parent
    name = _name(path) if name is None else _checked(name)
    own = mapping or (folder / MAPPING_FILE if (folder / MAPPING_FILE).exists() else None)
    if mapping is not None or layout == TABLE or (layout is None and own):
        if own is None:
            raise InvalidConfig(f"{folder}: a table needs --mapping FILE or a {MAPPING_FILE} next to it")
        tables = _for_file(read_mapping(own), path)
        return MappedDataset(name, folder, tables, _source(path, tables), _not_read(path, tables, own.name))
    known = layout or _recognised(folder)
    if known == KUAIRAND:
        tables = kuairand(folder)
        return KuaiRand(name, folder, tables, _source(path, tables), _not_read(path, tables, HISTORY))
    tables = _with_present_files(_LAYOUTS[known][2](folder), folder)
    return MappedDataset(name, folder, tables, _source(path, tables), _not_read(path, tables))


def _recognised(folder: Path) -> str:
    """The layout of the folder's files."""
    found = [KUAIRAND] if is_kuairand(folder) else []
    found += [
        known
        for known, (pattern, start, _) in _LAYOUTS.items()
        if any(_begins(file, start) for file in folder.glob(pattern))
    ]
    if len(found) > 1:
        raise InvalidData(f"{folder}: files of several data sets; choose one: --format {' or '.join(found)}")
    if found:
        return found[0]
    looked_for = ", ".join(f"{pattern} ({known})" for known, (pattern, _, _) in _LAYOUTS.items())
    raise InvalidData(
        f"{folder}: no known data set; looked for {looked_for}, video_features_basic_*.csv ({KUAIRAND}) "
        f"and {MAPPING_FILE} ({TABLE}). For your own tables write a mapping: docs/data.md"
    )


def _begins(file: Path, start: bytes) -> bool:
    with file.open("rb") as content:
        return content.read(len(start)) == start


def _source(path: Path, mapping: Mapping) -> str:
    return f"{path.resolve()} ({', '.join(mapping.events.files)})"


def _not_read(path: Path, mapping: Mapping, *also_read: str) -> tuple[str, ...]:
    """Entries of the data set's folder without a file that is read; a single table has no others."""
    if not path.is_dir():
        return ()
    tables = filter(None, (mapping.events, mapping.items, mapping.users))
    read = {
        file.relative_to(path).parts[0]
        for table in tables
        for pattern in table.files
        for file in path.glob(pattern)
    }
    entries = (entry for entry in path.iterdir() if not entry.name.startswith("."))
    return tuple(sorted(entry.name for entry in entries if entry.name not in read.union(also_read)))


def _for_file(mapping: Mapping, path: Path) -> Mapping:
    """Read the events from the path, if it is a single table."""
    if path.is_dir():
        return mapping
    return mapping.model_copy(update={"events": mapping.events.model_copy(update={"files": [path.name]})})


def _with_present_files(mapping: Mapping, folder: Path) -> Mapping:
    """Leave out the tables that this copy of a known data set lacks; the report counts 0 of them."""
    tables = {name: getattr(mapping, name) for name in ("items", "users")}
    absent = [name for name, table in tables.items() if table and not any(folder.glob(table.files[0]))]
    return mapping.model_copy(update=dict.fromkeys(absent))


def _name(path: Path) -> str:
    """The folder's name, or the file's without its suffix, in letters, digits, dots and dashes."""
    resolved = path.resolve()
    return _normal(resolved.name if path.is_dir() else resolved.stem) or "data"


def _checked(name: str) -> str:
    if not name or name != _normal(name):
        raise InvalidConfig(f"--name {name!r}: use lower-case letters, digits, dots and single dashes")
    return name


def _normal(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.").lower()
