"""What RECSYS_DATABASE_URL may say, and what is said of it."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recsys.catalogue_db.connection import connect, database_url, safe
from recsys.contracts.errors import InvalidConfig
from recsys.observability.logs import redact


def test_a_url_without_a_driver_gets_ours() -> None:
    assert database_url("sqlite", Path("/home")).database == "/home/catalogue.db"
    assert database_url("postgresql://h/d", Path()).drivername == "postgresql+psycopg"
    assert database_url("mysql://h/d", Path()).drivername == "mysql+pymysql"
    assert database_url("mariadb://h/d", Path()).drivername == "mariadb+pymysql"
    assert database_url("mysql+mysqldb://h/d", Path()).drivername == "mysql+mysqldb"


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("hunter2secret", "is not a URL such as postgresql"),
        ("postgresql://u:hunter2secret@h:port/d", "is not a URL such as postgresql"),
        ("oracle://u:hunter2secret@h/d", "supported are sqlite, postgresql, mysql, mariadb"),
        ("sqlite://", "name a file"),
        ("sqlite:///:memory:", "name a file"),
    ],
)
def test_a_wrong_url_is_refused_and_not_repeated(setting: str, reason: str) -> None:
    with pytest.raises(InvalidConfig, match=reason) as raised:
        database_url(setting, Path())
    assert "hunter2" not in str(raised.value)


def test_a_password_is_in_no_log_line_and_no_address() -> None:
    url = database_url("postgresql://app:hunter2secret@db:5432/shop?sslmode=verify-full", Path())
    assert redact("password hunter2secret refused") == "password *** refused"
    assert safe(url) == "postgresql+psycopg://db:5432/shop"
    assert "hunter2" not in repr(connect(url))


def test_options_of_the_url_are_kept_or_refused() -> None:
    asked: dict[str, Any] = {}
    engine = connect(
        database_url("postgresql://db/shop?options=-csearch_path%3Dshop&sslmode=require", Path())
    )

    @sa.event.listens_for(engine, "do_connect")
    def _keep(_dialect: Any, _record: Any, _arguments: Any, options: dict[str, Any]) -> Any:
        asked.update(options)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        engine.connect()
    assert asked["options"].startswith("-csearch_path=shop -c statement_timeout=5000")
    assert asked["sslmode"] == "require"
    assert asked["keepalives_idle"] == 5
    with pytest.raises(InvalidConfig, match="leave out connect_timeout"):
        connect(database_url("postgresql://db/shop?connect_timeout=9", Path()))
    with pytest.raises(InvalidConfig, match="leave out charset"):
        connect(database_url("mariadb://db/shop?charset=latin1", Path()))
