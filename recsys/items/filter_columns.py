"""What filters read of a catalogue: a column for each field that some filter has asked for, kept current from then on.

A catalogue that is never filtered has none. The caller holds a lock.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidFilter
from recsys.contracts.filters import (
    FIELDS,
    Among,
    Condition,
    Every,
    Field,
    Kind,
    Not,
    Order,
    Some,
    conditions_of,
)
from recsys.contracts.text import CATEGORY_SEPARATOR
from recsys.contracts.types import Item
from recsys.items.text_column import Rows, TextColumn, Values, time_mask

_LISTED = 20  # attributes that an error names
_STALE = 1_000  # distinct values that may be left behind by changed items, besides one per item


class FilterColumns:
    """The columns, made when they are first needed."""

    def __init__(self) -> None:
        self._columns: dict[Field, TextColumn] = {}
        self._names: set[str] = set()  # of all attributes

    def write(self, rows: NDArray[np.int64], items: Sequence[Item]) -> None:
        """The items of these rows are new, or others than before."""
        self._names.update(*(item.attributes for item in items))
        for field, column in list(self._columns.items()):
            column.write(rows, values_of(field, items))

    def mask(
        self,
        condition: Condition,
        items: Collection[Item],
        columns: Mapping[str, NDArray[np.generic]],
        rows: Rows | None = None,
    ) -> NDArray[np.bool_]:
        """(n,) bool: which of the rows the condition holds for.

        Args:
            items: all of the catalogue, by row.
            columns: `created_ms` and so on, at least as many values each.
            rows: None: all.

        Raises:
            InvalidFilter: as `check`.
        """
        self.check(condition, items)
        return self._mask(condition, items, columns, slice(len(items)) if rows is None else rows)

    def check(self, condition: Condition, items: Collection[Item]) -> None:
        """Raises `InvalidFilter`: no item has an attribute of the condition, or not of the type that it asks for."""
        for single in conditions_of(condition):
            field = single.field
            if field.kind is not Kind.ATTRIBUTE:
                continue
            if field.name not in self._names:
                raise InvalidFilter(f"filter: no item has {field.name!r}; known are {self._listed()}")
            column = self._column(field, items)
            if (isinstance(single, Order) or (isinstance(single, Among) and single.numbers)) and (
                not column.has_numbers
            ):
                raise InvalidFilter(
                    f"filter: {field.name}: no item's is a number; compare it with texts, in quotes"
                )
            if isinstance(single, Among) and single.truths and not column.has_truths:
                raise InvalidFilter(
                    f"filter: {field.name}: no item's is true or false; compare it with texts"
                )

    def _mask(
        self,
        condition: Condition,
        items: Collection[Item],
        columns: Mapping[str, NDArray[np.generic]],
        rows: Rows | slice,
    ) -> NDArray[np.bool_]:
        """Two masks are in memory for each level of the condition, however many parts it has."""
        match condition:
            case Not(part):
                return ~self._mask(part, items, columns, rows)
            case Every(parts):
                return reduce(np.logical_and, (self._mask(part, items, columns, rows) for part in parts))
            case Some(parts):
                return reduce(np.logical_or, (self._mask(part, items, columns, rows) for part in parts))
        if condition.field.kind is Kind.TIME:
            times = columns[f"{condition.field.name}_ms"][rows].astype(np.int64, copy=False)
            return time_mask(times, condition)
        return self._column(condition.field, items).mask(condition, rows)

    def _column(self, field: Field, items: Collection[Item]) -> TextColumn:
        column = self._columns.get(field)
        if column is None or len(column) > 2 * len(items) + _STALE:
            column = self._columns[field] = TextColumn()
            column.write(np.arange(len(items)), values_of(field, items))
        return column

    def _listed(self) -> str:
        names = [*FIELDS, *sorted(self._names)]
        more = f" and {len(names) - len(FIELDS) - _LISTED} more" if len(names) > len(FIELDS) + _LISTED else ""
        return ", ".join(names[: len(FIELDS) + _LISTED]) + more


def values_of(field: Field, items: Iterable[Item]) -> list[Values]:
    """Each item's values of a field that is no time."""
    if field.kind is Kind.ATTRIBUTE:
        return [_parts(item.attributes.get(field.name, "")) for item in items]
    if field.name in ("categories", "regions"):
        return [getattr(item, field.name) for item in items]
    return [(text,) if (text := getattr(item, field.name)) else () for item in items]


def _parts(text: str) -> Values:
    """What is between the separators, without empty parts."""
    if CATEGORY_SEPARATOR not in text:
        return (text,) if text else ()
    return tuple(part for each in text.split(CATEGORY_SEPARATOR) if (part := each.strip()))
