"""The tables: items, users, the outbox and its lanes. `migrations` creates them; a test compares both.

Ids are compared and sorted by their bytes in every database: neither case nor a space at the end makes two ids one.
"""

from typing import Any
from zlib import crc32

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from recsys.contracts.text import MAX_ID_LENGTH, MAX_TEXT_LENGTH

LANES = 16  # changes of one id are in one lane; a lane is delivered by one relay at a time, in order
_MAX_VALUE_BYTES = 1 << 24  # a MEDIUMBLOB in MySQL: above Kafka's limit of a record
_INNODB: Any = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}


class Id(sa.types.TypeDecorator[str]):
    """A text that is compared by its bytes: VARBINARY in MySQL, whose collations ignore spaces at the end."""

    impl = sa.String
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.VARBINARY(4 * MAX_ID_LENGTH))
        if dialect.name == "postgresql":
            return dialect.type_descriptor(sa.String(MAX_ID_LENGTH, collation="C"))
        return dialect.type_descriptor(sa.String(MAX_ID_LENGTH))

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> Any:
        return value.encode() if value is not None and dialect.name in ("mysql", "mariadb") else value

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> str | None:
        return value.decode() if isinstance(value, bytes) else value


METADATA = sa.MetaData()

ITEMS = sa.Table(
    "items",
    METADATA,
    sa.Column("item_id", Id, primary_key=True),
    sa.Column("title", sa.String(MAX_TEXT_LENGTH), nullable=False),
    sa.Column("categories", sa.JSON, nullable=False),
    sa.Column("creator", sa.String(MAX_ID_LENGTH), nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),  # 0: unknown
    sa.Column("attributes", sa.JSON, nullable=False),
    sa.Column("available_from_ms", sa.BigInteger, nullable=False),  # 0: always
    sa.Column("available_until_ms", sa.BigInteger, nullable=False),  # 0: forever
    sa.Column("regions", sa.JSON, nullable=False),
    sa.Column("titles", sa.JSON(none_as_null=True), nullable=True),  # by language; null: `title` for all
    sa.Column(
        "deleted", sa.Boolean, nullable=False
    ),  # the id stays, so that an older change does not bring it back
    sa.Column(
        "changed_ms", sa.BigInteger, nullable=False
    ),  # increases with every change of the row; 0: imported
    **_INNODB,
)

USERS = sa.Table(
    "users",
    METADATA,
    sa.Column("user_id", Id, primary_key=True),
    sa.Column("attributes", sa.JSON, nullable=False),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
    **_INNODB,
)

OUTBOX = sa.Table(
    "outbox",
    METADATA,
    # of one key, ids increase in the order of the commits: the lock on the changed row is taken first
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("lane", sa.SmallInteger, nullable=False),
    sa.Column("topic", sa.String(32), nullable=False),
    sa.Column("key", Id, nullable=False),
    sa.Column("value", sa.LargeBinary(_MAX_VALUE_BYTES - 1), nullable=False),  # empty: a tombstone
    sa.Column("headers", sa.JSON, nullable=False),
    sa.Column("written_ms", sa.BigInteger, nullable=False),
    sa.Index("outbox_lane", "lane", "id"),
    sqlite_autoincrement=True,
    **_INNODB,
)

OUTBOX_LANES = sa.Table(
    "outbox_lanes",
    METADATA,
    sa.Column("lane", sa.SmallInteger, primary_key=True, autoincrement=False),
    **_INNODB,
)


def lane_of(key: str) -> int:
    """Where changes of this id wait; the same for ever, as rows of it may be waiting."""
    return crc32(key.encode()) % LANES
