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
    known, forgotten = _stored(merges_path(lake)), forgotten_users(lake)
    after: dict[tuple[str, str], UserMerge] = {}
    for merge in remembered(
        [*known, *merges], forgotten
    ):  # what was forgotten is not the earliest time of a new merge
        pair = merge.user_id, merge.into
        after[pair] = min(merge, after.get(pair, merge), key=lambda m: m.changed_ms)
    table = merges_table(after.values())
    return [] if table == merges_table(known) else [(merges_path(lake).relative_to(lake), table)]


def users_with_history_of(lake: Path, forgotten: Mapping[str, int]) -> set[str]:
    """Those whose features may have what a forgotten id did: the users that it was merged into, and so on. Ask before
    `forget_merges`."""
    known = _stored(merges_path(lake))
    found = {m.into for m in known if is_forgotten(forgotten, m.user_id, m.changed_ms)}
    while more := {m.into for m in known if m.user_id in found} - found:
        found |= more
    return found


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
