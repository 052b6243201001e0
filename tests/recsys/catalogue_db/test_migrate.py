"""The tables that the versions create are those that the code uses."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from recsys.catalogue_db.connection import connect
from recsys.catalogue_db.connection import database_url as parsed
from recsys.catalogue_db.migrate import head, upgrade
from recsys.catalogue_db.tables import LANES, METADATA, OUTBOX_LANES
from tests.databases import ALL


@pytest.mark.parametrize("database_url", ALL, indirect=True)
def test_a_migrated_database_has_the_tables_of_the_code(database_url: str) -> None:
    engine = connect(parsed(database_url, Path()))
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": not database_url.startswith("mariadb")}
        )
        differences = compare_metadata(context, METADATA)
        assert differences == []
        assert list(connection.scalars(sa.select(OUTBOX_LANES.c.lane).order_by(OUTBOX_LANES.c.lane))) == list(
            range(LANES)
        )
    engine.dispose()


def test_a_second_upgrade_changes_nothing(tmp_path: Path) -> None:
    url = parsed("sqlite", tmp_path)
    assert upgrade(url) == ("", head())
    assert upgrade(url) == (head(), head())
