"""Run by alembic: applies the versions on the connection that `recsys.catalogue_db.migrate` has opened."""

from alembic import context

from recsys.catalogue_db.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
