"""Frames of several libraries give the same tables; ids come back as they were."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from infra.notebook.frames import frame_like, of_type, table_of, texts_of
from recsys.contracts.errors import InvalidData

COLUMNS: dict[str, list[Any]] = {
    "id": [1, 2, 3],
    "name": ["a", None, "c"],
    "at": [datetime(2024, 5, 1, 12, tzinfo=UTC)] * 3,
    "tags": [["x", "y"], [], ["z"]],
    "share": [0.5, None, 1.0],
    "day": [date(2024, 5, 1)] * 3,
    "price": [Decimal("1.50")] * 3,
    "ok": [True, False, True],
}
MAKERS: list[Callable[[Any], Any]] = [pd.DataFrame, pl.DataFrame, pa.table]


@pytest.mark.parametrize("make", MAKERS, ids=["pandas", "polars", "pyarrow"])
def test_libraries_give_equal_tables(make: Callable[[Any], Any]) -> None:
    table = table_of(make(COLUMNS), "events")
    assert table.column("at").cast(pa.int64()).to_pylist() == [1_714_564_800_000] * 3
    assert table.column("tags").to_pylist() == ["x|y", "", "z"]
    others = table.drop_columns(["at", "tags"]).to_pydict()
    assert others == {name: values for name, values in COLUMNS.items() if name not in ("at", "tags")}


@pytest.mark.parametrize("make", MAKERS, ids=["pandas", "polars", "pyarrow"])
def test_what_comes_out_is_of_the_library_that_went_in(make: Callable[[Any], Any]) -> None:
    frame = make({"id": [1, 2], "name": ["a", "b"]})
    back = frame_like(table_of(frame, "events"), type(frame))
    assert type(back) is type(frame)
    assert back.equals(frame)


def test_another_library_gets_a_pyarrow_table() -> None:
    class Own:
        def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
            return pa.table({"id": [1]}).__arrow_c_stream__(requested_schema)

    assert frame_like(table_of(Own(), "events"), Own) == pa.table({"id": [1]})


def test_pandas_types_that_hold_gaps() -> None:
    frame = pd.DataFrame(
        {
            "int": pd.array([1, None, 3], "Int64"),
            "float": [1.0, np.nan, 3.0],
            "text": pd.array(["a", None, "c"], "string"),
            "kind": pd.Categorical(["u", None, "v"]),
            "local": pd.to_datetime(["2024-05-01 14:00"] * 3).tz_localize("Europe/Berlin"),
            "naive": pd.to_datetime(["2024-05-01 12:00"] * 3),
        },
        index=[7, 8, 9],
    )
    table = table_of(frame, "events")
    assert table.column_names == ["int", "float", "text", "kind", "local", "naive"], "without the index"
    assert [table.column(name).null_count for name in table.column_names] == [1, 1, 1, 1, 0, 0]
    for name in ("local", "naive"):  # the instant; one without a zone is UTC
        assert table.column(name).cast(pa.int64()).to_pylist() == [1_714_564_800_000] * 3
    assert table.schema.field("kind").type == pa.string()


def test_polars_categories_and_nan() -> None:
    frame = pl.DataFrame(
        {
            "kind": pl.Series(["u", None, "v"], dtype=pl.Categorical),
            "fixed": pl.Series(["u", "v", None], dtype=pl.Enum(["u", "v"])),
            "float": [1.0, float("nan"), None],
        }
    )
    table = table_of(frame, "events")
    assert table.to_pydict() == {
        "kind": ["u", None, "v"],
        "fixed": ["u", "v", None],
        "float": [1.0, None, None],
    }


def test_what_is_no_table_is_refused_with_what_to_do() -> None:
    twice = pd.DataFrame([[1, 2]], columns=["id", "id"])
    for frame, message in (
        (pl.LazyFrame({"id": [1]}), r"events: .*LazyFrame; call its collect\(\) first"),
        ({"id": [1]}, "events: a frame of pandas .* is needed, got dict"),
        (pd.DataFrame({"id": []}), "events: no rows"),
        (pl.DataFrame({"id": []}), "events: no rows"),
        (twice, "events: .*(more than once|Duplicate)"),
        (pa.table([[1], [2]], names=["id", "id"]), "events: column id is there more than once"),
        (pd.DataFrame({"id": [1, "a"]}), "events: not a table: .*give each column one type"),
    ):
        with pytest.raises(InvalidData, match=message):
            table_of(frame, "events")


def test_ids_of_any_kind_are_texts() -> None:
    for ids in (196, "196", 196.0, np.int64(196)):
        assert texts_of(ids, "user_ids") == ["196"]
    frame = {"u": [1, 7]}
    for column in ([1, 7], (1.0, 7.0), np.array([1, 7]), pd.DataFrame(frame)["u"], pl.DataFrame(frame)["u"]):
        assert texts_of(column, "user_ids") == ["1", "7"]
    assert texts_of(pa.array([1, 7]), "user_ids") == ["1", "7"]
    assert texts_of([1, "new"], "user_ids") == ["1", "new"]
    assert texts_of(pd.Series(["a", "b"], dtype="category"), "user_ids") == ["a", "b"]


@pytest.mark.parametrize("ids", [[], [None], [1.0, float("nan")], pd.DataFrame({"u": [1]}), [{}]])
def test_what_is_no_id_is_refused(ids: object) -> None:
    with pytest.raises(InvalidData, match="user_ids: .*(no ids|missing|whole frame|texts or numbers)"):
        texts_of(ids, "user_ids")


def test_ids_come_back_in_their_type_if_they_fit() -> None:
    assert of_type(["1", "7"], pa.int64()).to_pylist() == [1, 7]
    assert of_type(["1", "new"], pa.int64()).to_pylist() == ["1", "new"]
    assert of_type(["1"], pa.string()).to_pylist() == ["1"]
