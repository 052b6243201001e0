"""PostgreSQL: a publication of the outbox, for a relay that reads it through a replication slot (`RECSYS_RELAY=slot`).

An account that may not create one leaves it out; nothing else needs it.
"""

from alembic import op

revision = "0003"
down_revision = "0002"

_CREATE = """
DO $$ BEGIN
  CREATE PUBLICATION recsys_outbox FOR TABLE outbox WITH (publish = 'insert');
EXCEPTION
  WHEN insufficient_privilege OR duplicate_object THEN NULL;
END $$
"""


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_CREATE)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP PUBLICATION IF EXISTS recsys_outbox")
