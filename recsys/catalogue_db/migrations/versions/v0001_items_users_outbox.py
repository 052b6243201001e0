"""Items, users, the outbox and its lanes."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None

_LANES = 16
_INNODB = {"engine": "InnoDB", "charset": "utf8mb4"}


def _id(name: str) -> sa.Column[str]:
    kind = sa.String(128).with_variant(mysql.VARBINARY(512), "mysql", "mariadb")
    return sa.Column(name, kind.with_variant(sa.String(128, collation="C"), "postgresql"), nullable=False)


def upgrade() -> None:
    innodb: Any = {
        f"{name}_{option}": value for name in ("mysql", "mariadb") for option, value in _INNODB.items()
    }
    op.create_table(
        "items",
        _id("item_id"),
        sa.Column("title", sa.String(512), nullable=False),
        sa.Column("categories", sa.JSON, nullable=False),
        sa.Column("creator", sa.String(128), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("attributes", sa.JSON, nullable=False),
        sa.Column("available_from_ms", sa.BigInteger, nullable=False),
        sa.Column("available_until_ms", sa.BigInteger, nullable=False),
        sa.Column("regions", sa.JSON, nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("item_id"),
        **innodb,
    )
    op.create_table(
        "users",
        _id("user_id"),
        sa.Column("attributes", sa.JSON, nullable=False),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id"),
        **innodb,
    )
    op.create_table(
        "outbox",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
        sa.Column("lane", sa.SmallInteger, nullable=False),
        sa.Column("topic", sa.String(32), nullable=False),
        _id("key"),
        sa.Column("value", sa.LargeBinary((1 << 24) - 1), nullable=False),
        sa.Column("headers", sa.JSON, nullable=False),
        sa.Column("written_ms", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
        **innodb,
    )
    op.create_index("outbox_lane", "outbox", ["lane", "id"])
    lanes = op.create_table(
        "outbox_lanes",
        sa.Column("lane", sa.SmallInteger, primary_key=True, autoincrement=False),
        **innodb,
    )
    op.bulk_insert(lanes, [{"lane": lane} for lane in range(_LANES)])


def downgrade() -> None:
    for table in ("outbox_lanes", "outbox", "users", "items"):
        op.drop_table(table)
