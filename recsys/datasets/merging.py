"""Merge what an import brings into the lake's table of items or users.

A change through the log (API, Kafka) is newer than the rows of a table, however often the table is imported again: a
changed row stays as it is, a deleted one stays deleted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.datasets.catalogue import items_path, read_table, users_path
from recsys.datasets.changed import change_times
from recsys.lake.first_of_each import first_of_each
from recsys.lake.forget import forgotten_users, user_digest


@dataclass(frozen=True)
class Merged:
    rows: pa.Table  # the new table, sorted by id
    overwritten: int  # rows of the old table
    outdated: int  # rows of the import that are older than a change through the log


def merged_items(lake: Path, new: pa.Table, *, known: bool) -> Merged:
    """`new` in `ITEM_SCHEMA`, each id once. `known` false: it has ids alone, which overwrite nothing."""
    return _merged(items_path(lake), new, change_times(items_path(lake)), overwrite=known)


def merged_users(lake: Path, new: pa.Table) -> Merged:
    """`new` in `USER_SCHEMA`, each id once. Users who were forgotten stay so."""
    later = {**forgotten_users(lake), **change_times(users_path(lake))}
    return _merged(users_path(lake), new, later, overwrite=True, by_digest=True)


def _merged(
    path: Path, new: pa.Table, changed: Mapping[str, int], *, overwrite: bool, by_digest: bool = False
) -> Merged:
    """`by_digest`: `changed` may have an id's digest in its place."""
    key = new.schema.names[0]
    old = read_table(path, new.schema) if path.exists() else new.schema.empty_table()
    outdated = np.asarray(pc.is_in(new.column(key), pa.array(list(changed), pa.string())))
    if by_digest and changed:
        forgotten = [user_digest(id_) in changed for id_ in new.column(key).to_pylist()]
        outdated = outdated | np.array(forgotten, bool)  # of no users at all, too
    new = new.filter(pa.array(~outdated))
    tables = [new, old] if overwrite else [old, new]
    return Merged(
        rows=first_of_each(pa.concat_tables(tables), key).sort_by(key),
        overwritten=int(pc.sum(pc.is_in(old.column(key), new.column(key))).as_py() or 0) * overwrite,
        outdated=int(outdated.sum()),
    )
