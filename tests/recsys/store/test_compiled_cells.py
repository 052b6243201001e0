"""The compiled reader of cells takes what the Python one takes, and refuses what is not ours."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recsys.contracts.state import MAX_SUM
from recsys.features.aggregates import Entity
from recsys.features.cells import CellCoding
from recsys.features.definitions import FEATURES
from recsys.store.encoding import StateDecoder
from tests.recsys.native.built import needs_native

AGGREGATES = len(CellCoding(FEATURES.aggregates, Entity.USER).aggregates)
PYTHON, COMPILED = StateDecoder(FEATURES), StateDecoder(FEATURES, native=True)

pytestmark = needs_native

CODES = st.builds(
    lambda aggregate, rest: (aggregate << 48 | rest).to_bytes(8, "big"),
    st.integers(0, AGGREGATES - 1),
    st.integers(0, (1 << 48) - 1),
)
AMOUNTS = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(0, MAX_SUM)
CELLS = st.dictionaries(CODES, AMOUNTS)


@given(CELLS)
def test_the_same_cells(cells: dict[bytes, int]) -> None:
    flat = [part for code, amount in cells.items() for part in (code, str(amount).encode())]
    python, compiled = PYTHON.cells(flat), COMPILED.cells(flat)
    assert dict(compiled) == dict(python)


@given(CELLS, st.binary(max_size=12), st.binary(max_size=24), st.integers(0, 5))
@example({}, bytes(8), b"", 0)
@example({}, bytes(8), b"1 ", 0)
@example({}, bytes(8), b"9" * 30, 0)
@example({}, b"\xff" * 8, b"1", 0)
@example({}, bytes(4), b"1", 0)
def test_what_is_not_a_cell_is_refused_by_both(
    cells: dict[bytes, int], code: bytes, amount: bytes, place: int
) -> None:
    """The compiled reader refuses more: Python also reads "+1", " 1" and "1_0", which Redis never writes."""
    flat = [part for key, value in cells.items() for part in (key, str(value).encode())]
    at = min(2 * place, len(flat))
    flat[at:at] = [code, amount]
    try:
        python = dict(PYTHON.cells(flat))
    except ValueError:
        with pytest.raises(ValueError, match="a field|an amount"):
            COMPILED.cells(flat)
        return
    try:
        assert dict(COMPILED.cells(flat)) == python
    except ValueError:
        assert len(code) != 8 or not amount.lstrip(b"-").isdigit()


def test_a_field_alone_and_a_reply_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="without an amount"):
        COMPILED.cells([bytes(8)])
    with pytest.raises(ValueError, match="not bytes"):
        COMPILED.cells([bytes(8), 1])  # type: ignore[list-item]
