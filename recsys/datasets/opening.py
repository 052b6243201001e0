"""Recognise the data set at a path."""

import re
from collections.abc import Callable
from pathlib import Path

from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.datasets.base import Dataset
from recsys.datasets.formats import FORMATS, KUAIRAND, TABLE
from recsys.datasets.kuairand import KuaiRand, kuairand
from recsys.datasets.kuairand import looks_like as is_kuairand
from recsys.datasets.mapper import MappedDataset
from recsys.datasets.mapping import Mapping, read_mapping
from recsys.datasets.movielens import movielens_1m, movielens_100k, movielens_csv, recbole

MAPPING_FILE = "mapping.yaml"
# format → a file that identifies it, its mapping
_LAYOUTS: dict[str, tuple[str, Callable[[Path], Mapping]]] = {
    "movielens-100k": ("u.data", movielens_100k),
    "movielens-1m": ("ratings.dat", movielens_1m),
    "movielens-csv": ("ratings.csv", movielens_csv),
    "recbole": ("*.inter", recbole),
}


def open_dataset(path: Path, layout: str | None = None, mapping: Path | None = None) -> Dataset:
    """Open the data set in a folder, recognised by its files.

    Args:
        path: the folder; with a mapping, also a single table.
        layout: one of `FORMATS`; None: recognise it.
        mapping: a YAML mapping of the user's own tables; None: the folder's `mapping.yaml`, if any.

    Raises:
        InvalidData: no known data set; the message lists what was looked for.
        InvalidConfig: an unknown layout, or an invalid mapping.
    """
    if layout is not None and layout not in FORMATS:
        raise InvalidConfig(f"unknown format {layout!r}: use one of {', '.join(FORMATS)}")
    if not path.exists():
        raise InvalidData(f"{path}: no such file or folder")
    folder = path if path.is_dir() else path.parent
    name = _name(path)
    own = mapping or (folder / MAPPING_FILE if (folder / MAPPING_FILE).exists() else None)
    if mapping is not None or layout == TABLE or (layout is None and own):
        if own is None:
            raise InvalidConfig(f"{folder}: a table needs --mapping FILE or a {MAPPING_FILE} next to it")
        return MappedDataset(name, folder, _for_file(read_mapping(own), path))
    if layout == KUAIRAND or (layout is None and is_kuairand(folder)):
        return KuaiRand(name, folder, kuairand(folder))
    for known, (pattern, mapping_of) in _LAYOUTS.items():
        if layout == known or (layout is None and any(folder.glob(pattern))):
            return MappedDataset(name, folder, _with_present_files(mapping_of(folder), folder))
    looked_for = ", ".join(f"{pattern} ({known})" for known, (pattern, _) in _LAYOUTS.items())
    raise InvalidData(
        f"{path}: no known data set; looked for {looked_for}, video_features_basic_*.csv ({KUAIRAND}) "
        f"and {MAPPING_FILE} ({TABLE}). For your own tables write a mapping: docs/data.md"
    )


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
    stem = resolved.name if path.is_dir() else resolved.stem
    return re.sub(r"[^A-Za-z0-9.]+", "-", stem).strip("-.").lower() or "data"
