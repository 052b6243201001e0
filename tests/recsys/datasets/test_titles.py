"""Titles by language: from the columns of a table to the lake, also of lakes that had none."""

from pathlib import Path

import pytest

from recsys.contracts.changes import ItemChange
from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import Item
from recsys.datasets.catalogue import items_path
from recsys.datasets.changed import items_after
from recsys.datasets.guessing import Guess, guess_mapping
from recsys.datasets.importer import import_dataset
from recsys.datasets.mapper import MappedDataset
from recsys.datasets.mapping import read_mapping
from recsys.items.item_table import items_table, read_items
from recsys.lake.lake import write_parquet

EVENTS = "user,item,when\nu,a,2026-01-05\nu,b,2026-01-05\nv,b,2026-01-06\nv,c,2026-01-06\n"


def guessed(folder: Path, header: str, *rows: str) -> Guess:
    (folder / "events.csv").write_text(EVENTS)
    rows = rows or tuple(f"{item}," + ",".join([f"{item} x"] * header.count(",")) for item in "ab")
    (folder / "items.csv").write_text("\n".join([header, *rows, ""]))
    return guess_mapping([folder])


def test_columns_of_titles_are_guessed_and_read(tmp_path: Path) -> None:
    rows = ("a,Kaffeemühle,Coffee grinder,Küche", "b,,Only English,Küche", "c,Nur Deutsch,,Bad", "d,,,Bad")
    guess = guessed(tmp_path, "item,title_de,title_en,category", *rows)
    items = guess.mapping.items
    assert items is not None
    assert (items.title, items.titles) == ("title_de", {"de": "title_de", "en": "title_en"})
    assert items.categories == "category"
    assert [doubt for doubt in guess.doubts if doubt.startswith("titles: ")]
    assert [used.role for used in guess.columns["items"][1:3]] == ["title, titles", "titles"]

    (tmp_path / "mapping.yaml").write_text(guess.to_yaml())
    mapping = read_mapping(tmp_path / "mapping.yaml")
    report = import_dataset(MappedDataset("shop", tmp_path, mapping), tmp_path / "lake")
    assert not report.first_broken
    a, b, c, d = read_items(items_path(tmp_path / "lake"))
    assert (a.title, a.titles) == ("Kaffeemühle", {"de": "Kaffeemühle", "en": "Coffee grinder"})
    assert (b.title, b.titles) == ("Only English", {"en": "Only English"})
    assert (c.title, c.titles) == ("Nur Deutsch", {"de": "Nur Deutsch"})
    assert (d.title, d.titles) == ("", None)


@pytest.mark.parametrize(
    ("header", "title", "titles"),
    [
        ("item,name_en,name_pt_BR", "name_en", {"en": "name_en", "pt-BR": "name_pt_BR"}),
        ("item,label,label_zh_Hant", "label", {"zh-Hant": "label_zh_Hant"}),
        ("item,titleDe,titleEn", "titleDe", {"de": "titleDe", "en": "titleEn"}),
        ("item,name_en,nameDe,name", "name", {"en": "name_en", "de": "nameDe"}),
        ("item,artist_name_de,item_name_de,item_name_en", "item_name_de", {"de": "item_name_de", "en": "item_name_en"}),
        ("item,title_en", "title_en", {}),
        ("item,title,title_short,title_de_old", "title", {}),
        ("item,name,name_id,name_no", "name", {}),
        ("item,name,name_id,name_de", "name", {"id": "name_id", "de": "name_de"}),
        ("item,headline_de,headline_DE,headline_en", "headline_de", {"de": "headline_de", "en": "headline_en"}),
        ("item,artist,genre", None, {}),
    ],
)  # fmt: skip
def test_names_of_columns_that_are_titles(
    tmp_path: Path, header: str, title: str | None, titles: dict[str, str]
) -> None:
    items = guessed(tmp_path, header).mapping.items
    assert items is not None
    assert (items.title, items.titles) == (title, titles)


def test_a_default_title_of_an_unknown_language_is_to_be_named(tmp_path: Path) -> None:
    doubts = guessed(tmp_path, "item,title,title_en").doubts
    assert any("`titles: {LANGUAGE: title, …}`" in doubt for doubt in doubts)


def test_a_language_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    guess = guessed(tmp_path, "item,title_de,title_en")
    (tmp_path / "mapping.yaml").write_text(guess.to_yaml().replace("de: title_de", "german: title_de"))
    with pytest.raises(InvalidConfig, match=r"titles.*'german' is not a language tag"):
        read_mapping(tmp_path / "mapping.yaml")


def test_norwegian_needs_no_quotes(tmp_path: Path) -> None:
    guess = guessed(tmp_path, "item,title_de,title_en")
    (tmp_path / "mapping.yaml").write_text(guess.to_yaml().replace("de: title_de", "no: title_de"))
    items = read_mapping(tmp_path / "mapping.yaml").items
    assert items is not None and items.titles == {"no": "title_de", "en": "title_en"}


def test_a_title_that_is_too_long_breaks_its_row(tmp_path: Path) -> None:
    guess = guessed(tmp_path, "item,title_de,title_en", f"a,A,{'x' * 513}", "b,B,B", "c,C,C")
    report = import_dataset(MappedDataset("shop", tmp_path, guess.mapping), tmp_path / "lake")
    assert [(row.row, row.column, row.reason) for row in report.first_broken] == [
        (2, "title_en", "is longer than 512 characters")
    ]


def test_tables_of_before_titles_by_language_are_read_and_changed(tmp_path: Path) -> None:
    path = items_path(tmp_path)
    path.parent.mkdir()
    write_parquet(path, items_table([Item("a", "A"), Item("b", "B")]).drop_columns(["titles"]))
    assert read_items(path) == [Item("a", "A"), Item("b", "B")]
    titled = Item("b", "B", titles={"de": "B", "en": "Bee"})
    for relative, table in items_after(tmp_path, [ItemChange("b", titled, 7)]):
        write_parquet(tmp_path / relative, table)
    assert read_items(path) == [Item("a", "A"), titled]
