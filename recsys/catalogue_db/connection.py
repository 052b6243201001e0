"""Connect to the database that `RECSYS_DATABASE_URL` names, and translate its errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from recsys.contracts.errors import InvalidConfig, InvalidData, Unavailable
from recsys.extras import extra_named
from recsys.observability.logs import hide, redact
from recsys.settings import Settings

SQLITE = "sqlite"  # the whole setting: a file in the home folder
_FILE = "catalogue.db"
# what a URL may name → the driver; another one that SQLAlchemy knows may be named, too (`mysql+mysqldb`)
_DRIVERS = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
_POOL = 8  # connections of one process
_IDLE_S = 30  # a relay that is frozen inside a transaction loses its lanes to another one after this time
_DEADLOCKS = ("40001", "40P01", 1213)  # PostgreSQL's states, MySQL's number


def database_url(setting: str, home: Path) -> sa.URL:
    """The URL that a setting means. Raises `InvalidConfig`: it is none, or of a database that is not supported; the
    message does not repeat it, as it has a password."""
    if setting == SQLITE:
        return sa.URL.create(SQLITE, database=str(home / _FILE))
    try:
        url = sa.make_url(setting)
        url.get_backend_name()
    except (ArgumentError, ValueError, NoSuchModuleError):
        raise InvalidConfig(
            "RECSYS_DATABASE_URL is not a URL such as postgresql://user:password@host:5432/database"
        ) from None
    if url.get_backend_name() not in _DRIVERS:
        raise InvalidConfig(
            f"RECSYS_DATABASE_URL names {url.get_backend_name()!r}; supported are {', '.join(_DRIVERS)}"
        )
    if "+" not in url.drivername:
        url = url.set(drivername=_DRIVERS[url.get_backend_name()])
    if url.get_backend_name() == SQLITE and url.database in (None, "", ":memory:"):
        raise InvalidConfig("RECSYS_DATABASE_URL: SQLite in memory is gone with its process; name a file")
    for secret in (url.password, url.query.get("password"), url.query.get("sslpassword")):
        hide(secret if isinstance(secret, str) else "")
    return url


def url_of(settings: Settings) -> sa.URL:
    """The database that `RECSYS_DATABASE_URL` names. Raises `InvalidConfig`: it names none; and as `database_url`."""
    if not settings.database_url:
        raise InvalidConfig("set RECSYS_DATABASE_URL to the database of items and users, such as sqlite")
    return database_url(settings.database_url.get_secret_value(), settings.home)


def connect(url: sa.URL, timeout_s: float | None = 5.0) -> sa.Engine:
    """A pool of connections, which opens none yet.

    Args:
        timeout_s: for a connection, and for each statement; None: statements may take any time (migrations).

    Raises:
        MissingExtra: the driver is not installed.
        InvalidConfig: an option of the URL is unknown.
    """
    options: dict[str, Any] = {"pool_size": _POOL, "max_overflow": 0, "pool_timeout": timeout_s or 30.0}
    backend = url.get_backend_name()
    if backend != SQLITE:
        options |= {"isolation_level": "READ COMMITTED"}
    try:
        with extra_named("RECSYS_DATABASE_URL"):
            engine = sa.create_engine(
                url,
                # statements in errors have no parameters: they are what users have told the platform
                hide_parameters=True,
                pool_pre_ping=True,  # the database may have been restarted
                connect_args=_arguments(url, timeout_s),
                json_serializer=lambda value: orjson.dumps(value).decode(),
                json_deserializer=orjson.loads,
                **options,
            )
    except (ArgumentError, NoSuchModuleError, TypeError) as error:
        raise InvalidConfig(f"RECSYS_DATABASE_URL: {redact(str(error))}") from None
    if backend == SQLITE:
        assert url.database is not None  # noqa: S101 - `database_url` has checked it
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        sa.event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _arguments(url: sa.URL, timeout_s: float | None) -> dict[str, Any]:
    """The driver's options. Raises `InvalidConfig`: the URL has some of them, too."""
    ours = _timeouts(url.get_backend_name(), timeout_s)
    options = url.query.get("options", "")
    if "options" in ours and isinstance(options, str):
        ours["options"] = f"{options} {ours['options']}".strip()
    elsewhere = sorted((ours.keys() & url.query.keys()) - {"options"})
    if elsewhere:
        raise InvalidConfig(
            f"RECSYS_DATABASE_URL: leave out {', '.join(elsewhere)}; RECSYS_DATABASE_TIMEOUT_S is for that"
        )
    return ours


def _timeouts(backend: str, timeout_s: float | None) -> dict[str, Any]:
    if backend == SQLITE:
        return {"timeout": timeout_s or 60.0}
    connect_s = round(timeout_s or 10.0) or 1
    if backend == "postgresql":
        statement_ms = round((timeout_s or 0) * 1_000)
        return {
            "connect_timeout": max(connect_s, 2),
            # a host that is gone without a word
            "tcp_user_timeout": 2_000 * connect_s,
            "keepalives_idle": connect_s,
            "keepalives_interval": max(1, connect_s // 3),
            "keepalives_count": 3,
            "options": f"-c statement_timeout={statement_ms} -c lock_timeout={statement_ms}"
            f" -c idle_in_transaction_session_timeout={1_000 * _IDLE_S}",
        }
    found: dict[str, Any] = {"connect_timeout": connect_s, "charset": "utf8mb4"}
    if timeout_s:
        lock_s = f"innodb_lock_wait_timeout={connect_s}"
        found |= {"read_timeout": 2 * connect_s, "write_timeout": 2 * connect_s}  # the lock's ends first
        found["init_command"] = f"SET SESSION wait_timeout={_IDLE_S}, {lock_s}"
    return found


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")  # readers do not wait for the writer
    connection.execute("PRAGMA synchronous=FULL")  # what is committed survives a power failure
    connection.execute("PRAGMA secure_delete=ON")  # a forgotten user's bytes are overwritten


@contextmanager
def database_errors(url: sa.URL) -> Iterator[None]:
    """Translate errors of SQLAlchemy and the driver.

    Raises:
        Unavailable: the database cannot be reached, is too slow, or lacks tables or rights.
        InvalidData: it refuses a value.
    """
    try:
        yield
    except DataError as error:
        raise InvalidData(f"the database {safe(url)} refuses a value: {said(error)}") from None
    except PoolTimeout:
        raise Unavailable(f"the database {safe(url)}: all {_POOL} connections are in use") from None
    except DBAPIError as error:
        hint = "" if error.connection_invalidated or _is_away(error) else _HINT
        raise Unavailable(f"the database {safe(url)}: {said(error)}{hint}") from None
    except SQLAlchemyError as error:
        raise Unavailable(f"the database {safe(url)}: {redact(str(error))}") from None


_HINT = "; are its tables of this version (`recsys db upgrade`), and may the account use them?"


def _is_away(error: DBAPIError) -> bool:
    """No connection, or a timeout: nothing that `recsys db upgrade` mends."""
    said = str(error.orig).lower()
    return any(
        word in said for word in ("connect", "timeout", "locked", "gone away", "lost", "shutting down")
    )


def said(error: DBAPIError) -> str:
    return " ".join(redact(str(error.orig)).split())


def is_deadlock(error: BaseException) -> bool:
    """Another transaction won; the same one, begun once more, will succeed."""
    if not isinstance(error, DBAPIError) or error.orig is None:
        return False
    code = getattr(error.orig, "sqlstate", None) or next(iter(error.orig.args), None)
    return code in _DEADLOCKS


def safe(url: sa.URL) -> str:
    """The address without account and password."""
    return sa.URL.create(url.drivername, None, None, url.host, url.port, url.database).render_as_string()
