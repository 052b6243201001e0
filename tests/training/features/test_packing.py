"""What is written once a list is read in each of its rows."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.errors import InvalidData
from training.features.packing import bytes_of, first_of_list, lists_at, matrix_of, unpacked


@given(st.integers(0, 6), st.integers(0, 4), st.integers(0, 3), st.integers(0, 2))
def test_a_matrix_survives_chunks_and_slices(n: int, width: int, cut: int, skip: int) -> None:
    matrix = np.random.default_rng(n).normal(size=(n, width)).astype(np.float32)
    column = pa.chunked_array([bytes_of(matrix[:cut]), bytes_of(matrix[cut:])], pa.binary())
    np.testing.assert_array_equal(matrix_of(column.slice(skip), width), matrix[skip:])


def test_vectors_of_another_width_or_release_are_refused() -> None:
    column = pa.chunked_array([bytes_of(np.zeros((2, 3), np.float32))])
    with pytest.raises(InvalidData, match="row 0 has 3 features, the definitions have 4"):
        matrix_of(column, 4)
    with pytest.raises(InvalidData, match="recsys features build"):
        matrix_of(pa.chunked_array([pa.array([[1.0]], pa.list_(pa.float32()))]), 1)


def rows_of(keys: list[tuple[str, int]], *, written: bool = True) -> pa.Table:
    """Rows of these (user, time) in order, whose history names both."""
    table = pa.table({"user_id": [u for u, _ in keys], "event_time_ms": [t for _, t in keys]})
    first = first_of_list(table) & written
    values = [[f"{u}{t}"] * t for (u, t), is_first in zip(keys, first, strict=True) if is_first]
    bounds = np.cumsum([0, *(len(value) for value in values)])
    flat = pa.array([text for value in values for text in value], pa.string())
    return table.append_column("history_items", lists_at(first, bounds, flat))


KEYS = [("a", 0), ("a", 2), ("a", 2), ("a", 2), ("b", 1), ("b", 1), ("b", 3)]


def test_a_list_is_written_once() -> None:
    histories = rows_of(KEYS)["history_items"].to_pylist()
    assert histories == [[], ["a2", "a2"], None, None, ["b1"], None, ["b3"] * 3]


@given(st.permutations(range(len(KEYS))))
def test_every_row_has_its_lists_history_in_any_order(order: list[int]) -> None:
    rows = unpacked(rows_of(KEYS).take(pa.array(order)))
    for row in rows.to_pylist():
        assert row["history_items"] == [f"{row['user_id']}{row['event_time_ms']}"] * row["event_time_ms"]


def test_rows_without_the_one_that_has_the_history_are_refused() -> None:
    with pytest.raises(InvalidData, match="without their history"):
        unpacked(rows_of(KEYS).slice(2))
    with pytest.raises(InvalidData, match="without their history"):
        unpacked(rows_of(KEYS, written=False))


def test_tables_without_lists_are_left_alone() -> None:
    table = pa.table({"user_id": ["a"]})
    assert unpacked(table) is table
