"""The lake's table of merged users: each pair of ids once, with the earliest time that it was merged at."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from recsys.contracts.errors import InvalidData
from recsys.contracts.merges import UserMerge
from recsys.lake.commit import settle
from recsys.lake.forget import forgotten_users, is_forgotten
from recsys.lake.lake import write_parquet
from recsys.lake.parquet import read_columns

MERGES = "merges"
MERGE_SCHEMA = pa.schema([("user_id", pa.string()), ("into", pa.string()), ("changed_ms", pa.int64())])


def merges_path(lake: Path) -> Path:
    return lake / MERGES / "merges.parquet"


def read_merges(lake: Path) -> list[UserMerge]:
    """Without those of forgotten users. Raises `InvalidData`: the table, or a mark, cannot be read."""
    settle(lake)
    return remembered(_stored(merges_path(lake)), forgotten_users(lake))


def remembered(merges: Iterable[UserMerge], forgotten: Mapping[str, int]) -> list[UserMerge]:
    """Those of users who were not forgotten since, by the result of `forgotten_users`."""
    return [
        merge
        for merge in merges
        if not any(is_forgotten(forgotten, id_, merge.changed_ms) for id_ in (merge.user_id, merge.into))
    ]


def merges_after(lake: Path, merges: Sequence[UserMerge]) -> list[tuple[Path, pa.Table]]:
    """The table, and its path below the lake, after these merges; empty if they are known."""
    if not merges:
        return []
    known = {(merge.user_id, merge.into): merge for merge in _stored(merges_path(lake))}
    after = dict(known)
    for merge in merges:
        pair = merge.user_id, merge.into
        after[pair] = min(merge, after.get(pair, merge), key=lambda m: m.changed_ms)
    return [(merges_path(lake).relative_to(lake), merges_table(after.values()))] if after != known else []


def forget_merges(lake: Path, forgotten: Mapping[str, int]) -> int:
    """Remove those of forgotten users; returns their number. Hold `rewriting(lake)`."""
    known = _stored(merges_path(lake))
    left = remembered(known, forgotten)
    if len(left) < len(known):
        write_parquet(merges_path(lake), merges_table(left))
    return len(known) - len(left)


def merges_table(merges: Iterable[UserMerge]) -> pa.Table:
    """The table that is read here, sorted by its ids."""
    rows = sorted((merge.user_id, merge.into, merge.changed_ms) for merge in merges)
    return pa.table([[*column] for column in zip(*rows, strict=True)] or [[], [], []], schema=MERGE_SCHEMA)


def merges_of(table: pa.Table) -> list[UserMerge]:
    """The rows of a table in `MERGE_SCHEMA`."""
    columns = (table.column(name).to_pylist() for name in MERGE_SCHEMA.names)
    return [UserMerge(*row) for row in zip(*columns, strict=True)]


def _stored(path: Path) -> list[UserMerge]:
    if not path.exists():
        return []
    try:
        return merges_of(read_columns(path, MERGE_SCHEMA.names))
    except (pa.ArrowException, OSError) as error:
        raise InvalidData(f"{path}: not a readable table of merged users: {error}") from error
