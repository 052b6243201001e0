"""Frames of any library as Arrow tables, and back, by the Arrow PyCapsule interface: none is imported here.

pandas (from 2.2), polars, pyarrow and others implement `__arrow_c_stream__`.
"""

import re
from collections.abc import Iterable
from typing import Any, Protocol, TypeVar, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc

from recsys.contracts.errors import InvalidData
from recsys.contracts.text import CATEGORY_SEPARATOR

_INDEX = re.compile(r"__index_level_\d+__")  # how pandas calls an index without a name
_PLAIN = (
    pa.types.is_string,
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
    pa.types.is_timestamp,
    pa.types.is_date,
)
_TEXT = (pa.types.is_large_string, pa.types.is_string_view)
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view)


@runtime_checkable
class Frame(Protocol):
    """A table of any library."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


F = TypeVar("F", bound=Frame)


def table_of(frame: object, name: str) -> pa.Table:
    """The columns that can be mapped, in plain types: texts, numbers, truth values, instants in milliseconds.

    Dictionaries (pandas' and polars' categories) become texts, NaN null, lists of texts one text with `|` between.
    Other columns are left out, as is an index without a name.

    Args:
        name: of the frame in messages.

    Raises:
        InvalidData: it is no frame, has no rows, a name twice, or a column with values of several types.
    """
    if not isinstance(frame, Frame):
        lazy = "; call its collect() first" if hasattr(frame, "collect") else ""
        raise InvalidData(
            f"{name}: a frame of pandas (2.2 or newer), polars or pyarrow is needed, got {type(frame).__name__}{lazy}"
        )
    try:
        table = pa.table(frame)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise InvalidData(
            f"{name}: not a table: {error}; give each column one type (such as frame.astype(str)) and a name of its own"
        ) from error
    names = table.column_names
    if repeated := sorted({column for column in names if names.count(column) > 1}):
        raise InvalidData(
            f"{name}: column {', '.join(repeated)} is there more than once; rename or drop all but one"
        )
    if not table.num_rows:
        raise InvalidData(f"{name}: no rows; was everything filtered out?")
    columns = {column: _plain(table.column(column)) for column in names if not _INDEX.fullmatch(column)}
    return pa.table({column: values for column, values in columns.items() if values is not None})


def frame_like(table: pa.Table, kind: type[F]) -> F:
    """The table as a frame of the class `kind`; as a pyarrow table if its library is not known."""
    libraries = {base.__module__.partition(".")[0] for base in kind.__mro__}
    made: Any = table
    if "pandas" in libraries:
        made = table.to_pandas()
    elif "polars" in libraries:
        made = kind(table)  # type: ignore[call-arg]
    return made  # type: ignore[no-any-return]


def texts_of(ids: object, name: str) -> list[str]:
    """Ids as the catalogue has them: of one id, or of a list, an array or a column; 17.0 is 17.

    Raises:
        InvalidData: there is none, or one is missing.
    """
    if isinstance(ids, Frame) and hasattr(ids, "columns"):
        raise InvalidData(f"{name}: ids are needed, got a whole frame; name its column")
    values = list(ids) if isinstance(ids, Iterable) and not isinstance(ids, str) else [ids]
    try:
        column = pc.cast(_whole(_array(values)), pa.string())
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidData(f"{name}: ids are texts or numbers: {error}") from error
    if not len(column):
        raise InvalidData(f"{name}: no ids; name at least one")
    if column.null_count:
        raise InvalidData(
            f"{name}: {column.null_count} of {len(column)} ids are missing (None or NaN); drop them"
        )
    return list(column.to_pylist())


def of_type(ids: list[str], kind: pa.DataType) -> pa.Array:
    """Ids in the type that they had in the frame, where all of them fit into it; else as text."""
    texts = pa.array(ids, pa.string())
    try:
        return pc.cast(texts, kind)
    except pa.ArrowInvalid:
        return texts


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """None: of a type that is not mapped."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _decoded(column)
    if any(is_text(kind) for is_text in _TEXT):
        return pc.cast(column, pa.string())
    if any(is_list(kind) for is_list in _LISTS) and _is_text(kind.value_type):
        return pc.binary_join(pc.cast(column, pa.list_(pa.string())), CATEGORY_SEPARATOR)
    if pa.types.is_timestamp(kind):  # a zone moves no instant
        return pc.cast(column, pa.timestamp("ms", kind.tz), safe=False)
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
    return column if any(is_plain(kind) for is_plain in _PLAIN) else None


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Arrow itself cannot decode polars' categories."""
    chunks = []
    for chunk in column.chunks:
        values = _plain(pa.chunked_array([chunk.dictionary]))
        if values is None:
            return None
        chunks.append(values.combine_chunks().take(chunk.indices))
    return pa.chunked_array(chunks)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or any(is_text(kind) for is_text in _TEXT)


def _array(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # of several types
        return pa.array([None if value is None or value != value else str(value) for value in values])


def _whole(column: pa.Array) -> pa.Array:
    """Floats that are whole numbers as integers: what pandas makes of integers with a gap."""
    if not pa.types.is_floating(column.type):
        return column
    try:
        return pc.cast(column, pa.int64())
    except pa.ArrowInvalid:
        return column
