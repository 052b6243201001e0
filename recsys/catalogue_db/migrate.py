"""Bring the tables to the version of this code."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from recsys.catalogue_db.connection import connect, database_errors

_FOLDER = Path(__file__).with_name("migrations")


def upgrade(url: sa.URL) -> tuple[str, str]:
    """Create or change the tables. Idempotent. Returns the version before ("": no tables) and after.
    Raises `Unavailable`: the database is away, or its account may not change tables."""
    engine = connect(url, timeout_s=None)
    try:
        with database_errors(url), engine.connect() as connection:
            before = _current(connection)
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
            return before, _current(connection)
    finally:
        engine.dispose()


def head() -> str:
    """The version of this code."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def _current(connection: sa.Connection) -> str:
    return MigrationContext.configure(connection).get_current_revision() or ""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return config
