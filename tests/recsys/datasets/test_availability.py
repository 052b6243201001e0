"""Windows and regions of items: from the columns of a table to the lake, also of lakes that had none."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from recsys.contracts.changes import ItemChange
from recsys.contracts.types import Item
from recsys.datasets.catalogue import items_path
from recsys.datasets.changed import items_after
from recsys.datasets.guessing import guess_mapping
from recsys.datasets.importer import import_dataset
from recsys.datasets.mapper import MappedDataset
from recsys.datasets.mapping import Mapping
from recsys.items.item_table import items_table, read_items
from recsys.lake.lake import write_parquet

EVENTS = "user,item,when\nu,a,2026-01-05\nu,b,2026-01-05\nv,b,2026-01-06\n"
ITEMS = (
    "item,available_from,available_until,territories\n"
    "a,2026-01-01,2026-02-01T12:00:00Z,de|at\nb,,,\nc,,2026-03-01,fr; be ,\nd,2026-02-01,2026-01-01,de\n"
)
JANUARY_MS, WEEK_MS = 1_767_225_600_000, 7 * 86_400_000


def shop(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "events.csv").write_text(EVENTS)
    (folder / "items.csv").write_text(ITEMS.replace("fr; be ,", '"fr; be ,"'))
    return folder


def test_windows_and_regions_are_guessed_read_and_shifted(tmp_path: Path) -> None:
    folder = shop(tmp_path / "shop")
    guess = guess_mapping([folder])
    items = guess.mapping.items
    assert items is not None
    assert items.available_from is not None and items.available_until is not None
    assert (items.available_from.column, items.available_until.column) == (
        "available_from",
        "available_until",
    )
    assert items.regions == "territories"
    assert any(doubt.startswith("regions: ") for doubt in guess.doubts)

    dataset = MappedDataset("shop", folder, guess.mapping)
    report = import_dataset(dataset, tmp_path / "lake")
    assert [(row.row, row.reason) for row in report.first_broken] == [(5, "is not after its start")]
    a, b, c = read_items(items_path(tmp_path / "lake"))
    assert (a.available_from_ms, a.available_until_ms) == (
        JANUARY_MS,
        JANUARY_MS + 31 * 86_400_000 + 43_200_000,
    )
    assert (a.regions, b.regions, c.regions) == (("de", "at"), (), ("fr", "be"))
    assert (b.available_from_ms, b.available_until_ms, c.available_from_ms) == (0, 0, 0)

    import_dataset(dataset, tmp_path / "later", end_ms=JANUARY_MS + 60 * WEEK_MS)
    shifted, never, _ = read_items(items_path(tmp_path / "later"))
    weeks = (shifted.available_from_ms - a.available_from_ms) / WEEK_MS
    assert weeks == int(weeks) > 50
    assert shifted.available_until_ms - a.available_until_ms == weeks * WEEK_MS
    assert never.available_until_ms == 0


@pytest.mark.parametrize("column", ["from", "available", "country", "end", "region"])
def test_what_hides_items_is_not_guessed_from_less_than_a_whole_name(tmp_path: Path, column: str) -> None:
    (tmp_path / "events.csv").write_text(EVENTS)
    (tmp_path / "items.csv").write_text(f"item,{column}\na,2026-01-01\nb,2026-01-02\n")
    items = guess_mapping([tmp_path]).mapping.items
    assert items is not None
    assert (items.available_from, items.available_until, items.regions) == (None, None, None)


@pytest.mark.parametrize(
    ("cell", "regions", "reason"),
    [
        ("|".join(f"r{n}" for n in range(300)), 300, ""),
        ("|".join(f"r{n}" for n in range(301)), 0, "has more than 300 regions"),
        ("de,\x07", 0, "control character"),
        ("de;de| ", 1, ""),
    ],
)
def test_cells_of_regions(tmp_path: Path, cell: str, regions: int, reason: str) -> None:
    (tmp_path / "events.csv").write_text(EVENTS)
    (tmp_path / "items.csv").write_text(f'item,territories\na,"{cell}"\nb,\n')
    batches = list(MappedDataset("shop", tmp_path, guess_mapping([tmp_path]).mapping).items())
    rows = [row for batch in batches for row in batch.rows.column("regions").to_pylist()]
    broken = [each.reason for batch in batches for each in batch.broken]
    assert len(rows) + len(broken) == 2
    assert (len(rows[0]) if not reason else 0) == regions
    assert all(reason in said for said in broken) and len(broken) == bool(reason)


def test_a_window_needs_columns() -> None:
    with pytest.raises(ValueError, match="needs a column"):
        Mapping.model_validate(
            {
                "events": {
                    "files": ["e"],
                    "user": "u",
                    "item": "i",
                    "time": {"column": "t"},
                    "events": [{"type": "click"}],
                },
                "items": {
                    "files": ["i"],
                    "item": "i",
                    "available_from": {"unit": "rows", "first": "2026-01-01"},
                },
            }
        )


def test_tables_of_before_windows_are_read_and_changed(tmp_path: Path) -> None:
    old = items_table([Item("a", "A", ("x",), "c", 5, {"k": "v"}), Item("b")])
    path = items_path(tmp_path)
    path.parent.mkdir()
    write_parquet(path, old.drop_columns(["available_from_ms", "available_until_ms", "regions"]))
    assert read_items(path) == [Item("a", "A", ("x",), "c", 5, {"k": "v"}), Item("b")]
    window = Item("b", available_until_ms=9, regions=("de",))
    for relative, table in items_after(tmp_path, [ItemChange("b", window, 7)]):
        write_parquet(tmp_path / relative, table)
    assert read_items(path) == [Item("a", "A", ("x",), "c", 5, {"k": "v"}), window]
    assert pq.read_schema(path).names == items_table([]).schema.names
