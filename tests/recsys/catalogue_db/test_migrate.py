"""The tables that the versions create are those that the code uses."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from recsys.catalogue_db.changes import item_row
from recsys.catalogue_db.connection import connect
from recsys.catalogue_db.connection import database_url as parsed
from recsys.catalogue_db.database import CatalogueDatabase
from recsys.catalogue_db.migrate import _config, head, upgrade
from recsys.catalogue_db.tables import ITEMS, LANES, METADATA, OUTBOX_LANES
from recsys.contracts.changes import ItemChange
from recsys.contracts.types import Item
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


def test_items_of_before_titles_by_language_have_none(tmp_path: Path) -> None:
    url = parsed("sqlite", tmp_path)
    upgrade(url)
    engine, config = connect(url), _config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        row = item_row(ItemChange("i", Item("i", "Title"), 5))
        del row["titles"]
        connection.execute(sa.insert(ITEMS), [row])
    assert upgrade(url) == ("0001", head())
    database = CatalogueDatabase(engine)
    titled = ItemChange("j", Item("j", "Titel", titles={"de": "Titel"}), 5)
    database.load_items([titled, ItemChange("k", Item("k"), 5)])
    first, *others = database.items()
    assert first == ItemChange("i", Item("i", "Title"), 5)
    assert others == [titled, ItemChange("k", Item("k"), 5)]
    with engine.connect() as connection:
        nulls = connection.scalars(sa.text("SELECT item_id FROM items WHERE titles IS NULL")).all()
    assert nulls == ["i", "k"]
    database.close()


def test_a_second_upgrade_changes_nothing(tmp_path: Path) -> None:
    url = parsed("sqlite", tmp_path)
    assert upgrade(url) == ("", head())
    assert upgrade(url) == (head(), head())
