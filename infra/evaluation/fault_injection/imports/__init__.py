"""Damaged and unlucky imports (`recsys drill import`): every row is kept or rejected, and nothing older is lost."""

from functools import partial

from infra.evaluation.fault_injection.hostile.attacks import Attack
from infra.evaluation.fault_injection.imports import replacing
from infra.evaluation.fault_injection.imports.accounting import run
from infra.evaluation.fault_injection.imports.damage import PARQUET, TEXT

# What dc08ecb did with the same files (seed 0), of 9 text and 3 Parquet files with 120 rows each. "Deleted": the data
# set's earlier events, more than a tenth of them.
_BEFORE = {
    "a quote that never closes": "303 sound rows gone without a word; deleted by 3 files",
    "a quote that closes in a later row": "198 sound rows gone without a word; deleted by 3 files",
    "quotes within cells, escaped or not": "67 sound rows gone without a word; deleted by 1 file",
    "cut in two": "deleted by 7 files",
    "rows of UTF-16": "deleted by 2 files, 7 refused",
    "two exports in one file, each with its header": "2 headers became items",
    "line ends of three systems": "31 sound rows gone without a word; deleted by 1 file",
    "another delimiter": "deleted by 2 files, 7 refused",
    "a column name that occurs twice": "read the first one; deleted by 2 files",
    "compressed": "deleted by 2 files, 7 refused",
    "every row broken": "deleted by 7 files",
    "a header alone": "deleted by 6 files",
    "an empty file": "deleted by 1 file, 8 refused",
    "Parquet cut within a row group": "2 refused, 1 traceback",
    "Parquet with flipped bytes": "2 refused, 1 traceback",
    "Parquet with nulls": "1 traceback",
    "Parquet with numbers and lists as text": "1 traceback",
    "Parquet with a column twice": "2 refused, 1 traceback",
    "Parquet without rows": "deleted by 3 files",
}
_HELD = "no sound row gone"


def attacks(seed: int = 0) -> tuple[Attack, ...]:
    """Every damage over all loaders that can have it, then what threatens the lake as a whole."""
    return (
        *(
            Attack("imports", damage, _BEFORE.get(damage, _HELD), partial(run, damage, seed=seed))
            for damage in (*TEXT, *PARQUET)
        ),
        Attack(
            "imports",
            "kill -9 of an import before each change of the file system",
            "some rows of each edition after 5 of 14 kills",
            replacing.killed,
        ),
        Attack(
            "imports",
            "another source of the same name",
            "exit 0, the first one's events deleted",
            replacing.another_source,
        ),
        Attack(
            "imports",
            "the old table again after edits and deletions through the API",
            "edits overwritten, deleted items and users back",
            replacing.older_than_the_api,
        ),
    )
