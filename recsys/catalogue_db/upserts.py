"""INSERT that replaces a row of the same id, in the words of each database."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

_ONE: Any = sa.literal_column("1")  # a parameter there keeps PyMySQL from sending many rows in one statement


def replacing(table: sa.Table, dialect: str) -> Any:
    """Every row is replaced, and its `changed_ms` increases: to the given time, or by one if that is not later. So the
    order of the commits is the order of the times, whatever the clocks of the writers say."""
    statement, new, old = _insert(table, dialect)
    later = sa.case((old.changed_ms >= new.changed_ms, old.changed_ms + _ONE), else_=new.changed_ms)
    changed = [(name, getattr(new, name)) for name in _values(table)]
    return _on_conflict(statement, table, dialect, [*changed, ("changed_ms", later)])


def newest(table: sa.Table, dialect: str) -> Any:
    """A row is replaced unless it is newer than the given one."""
    statement, new, old = _insert(table, dialect)
    names = [
        *_values(table),
        "changed_ms",
    ]  # last: MySQL assigns in this order, and the others compare with it
    is_newer = old.changed_ms > new.changed_ms
    return _on_conflict(
        statement, table, dialect, [(n, sa.case((is_newer, old[n]), else_=getattr(new, n))) for n in names]
    )


def _values(table: sa.Table) -> list[str]:
    return [column.name for column in table.columns if not column.primary_key and column.name != "changed_ms"]


def _insert(table: sa.Table, dialect: str) -> tuple[Any, Any, Any]:
    """The statement, what it would insert, and what is there."""
    if dialect in ("mysql", "mariadb"):
        insert = mysql.insert(table)
        return insert, insert.inserted, table.c
    other = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    return other, other.excluded, table.c


def _on_conflict(statement: Any, table: sa.Table, dialect: str, changed: list[tuple[str, Any]]) -> Any:
    if dialect in ("mysql", "mariadb"):
        return statement.on_duplicate_key_update(changed)
    return statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=dict(changed))
