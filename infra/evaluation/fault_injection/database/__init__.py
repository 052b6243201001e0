"""`recsys drill db`: fault injection into the way from the catalogue database to the store."""

from enum import StrEnum


class Database(StrEnum):
    """The server under test."""

    POSTGRESQL = "postgresql"
    MARIADB = "mariadb"
