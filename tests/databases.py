"""Databases for tests: a SQLite file, or a server that the whole test run shares, emptied for each test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from infra.local.databases import DatabaseServer, MariaDbServer, PostgresServer
from recsys.catalogue_db.connection import connect, database_url
from recsys.catalogue_db.database import CatalogueDatabase
from recsys.catalogue_db.migrate import upgrade
from recsys.catalogue_db.outbox import Outbox
from recsys.catalogue_db.tables import ITEMS, OUTBOX, USERS
from recsys.contracts.errors import Unavailable
from recsys.settings import Settings

SERVERS: dict[str, Callable[[], DatabaseServer]] = {
    "postgresql": lambda: PostgresServer(slot_log="16MB"),  # a segment of the log
    "mariadb": MariaDbServer,
}
SLOT = "postgresql-slot"  # the same server, with the account of a relay
WITH_SLOT = pytest.param(SLOT, marks=pytest.mark.database)
ALL = ["sqlite", *(pytest.param(name, marks=pytest.mark.database) for name in SERVERS)]


def started(name: str) -> Iterator[DatabaseServer]:
    """A running server with the tables and their rights; skips the test where it is not installed."""
    try:
        server = SERVERS[name]().start()
    except Unavailable as error:
        if "is not installed" not in str(error):
            raise
        pytest.skip(str(error))
    try:
        upgrade(database_url(server.owner_url, Path()))
        server.grant()
        yield server
    finally:
        server.close()


def emptied(url: str) -> str:
    """Delete what an earlier test has left."""
    engine = connect(database_url(url, Path()))
    with engine.begin() as connection:
        for table in (ITEMS, USERS, OUTBOX):
            connection.execute(sa.delete(table))
    engine.dispose()
    return url


def sqlite_url(folder: Path) -> str:
    """A new file with the tables."""
    url = f"sqlite:///{folder / 'catalogue.db'}"
    upgrade(database_url(url, folder))
    return url


def opened(url: str) -> CatalogueDatabase:
    return CatalogueDatabase.of(Settings(database_url=SecretStr(url)))


class SlotDatabase(CatalogueDatabase):
    """Its relays follow a slot."""

    def outbox(self) -> Outbox:
        return self.slot_outbox()
