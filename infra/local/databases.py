"""PostgreSQL and MariaDB on 127.0.0.1, for tests and fault injection: the distribution's own binaries, without Docker.

Neither server runs as root: started by root, it becomes an account without rights.
"""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
from abc import abstractmethod
from pathlib import Path
from typing import Self

import psycopg
import pymysql

from infra.local.server import EmbeddedServer
from recsys.contracts.errors import Unavailable

DATABASE = "recsys"
OWNER, ACCOUNT = "recsys_owner", "recsys_app"  # who creates the tables, and who may only use them
RELAY = "recsys_relay"  # as ACCOUNT, and may use replication slots
_ACCOUNTS = ("postgres", "mysql", "nobody")


class DatabaseServer(EmbeddedServer):
    """A new, empty database; `owner_url` may create tables, `url` may read and write them."""

    scheme: str

    def __init__(self, port: int = 0) -> None:
        super().__init__(None, port)
        self._passwords = {name: secrets.token_urlsafe(12) for name in (OWNER, ACCOUNT, RELAY)}

    @property
    def url(self) -> str:
        return self._url(ACCOUNT)

    @property
    def relay_url(self) -> str:
        """As `url`, and may use replication slots, if the server has any."""
        return self.url

    @property
    def owner_url(self) -> str:
        return self._url(OWNER)

    def _url(self, account: str) -> str:
        return f"{self.scheme}://{account}:{self._passwords[account]}@127.0.0.1:{self.port}/{DATABASE}"

    def start(self) -> Self:
        if not any(self.data.glob("data/*")):
            self._create()
        return super().start()

    @abstractmethod
    def _create(self) -> None:
        """Fill `data/data`."""

    @abstractmethod
    def grant(self) -> None:
        """Let the account read and write the tables that the owner has created, nothing more."""

    def kill(self) -> None:
        """kill -9 of the server and the processes that it has started, which the process group does not have."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        pids = [int(pid) for pid in children.read_text(encoding="ascii").split()]
        super().kill()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _as_account(self, *command: str | Path) -> list[str | Path]:
        """The command line for an account without rights, which owns the data folder."""
        if os.geteuid() != 0:
            return list(command)
        account = _account()
        for path in (self.data, *self.data.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid)
        ids = f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"
        return ["setpriv", *ids, "--pdeathsig=KILL", *command]

    def _run(self, *command: str | Path) -> None:
        done = subprocess.run(
            [str(part) for part in self._as_account(*command)],
            capture_output=True,
            text=True,
            cwd=self.data,
            check=False,
        )
        if done.returncode:
            raise Unavailable(f"{command[0]} ended with {done.returncode}: {done.stderr or done.stdout}")


class PostgresServer(DatabaseServer):
    name = "postgresql"
    scheme = "postgresql"

    def __init__(self, port: int = 0, slot_log: str = "") -> None:
        """`slot_log`: how much log a replication slot may keep, such as "1GB"; "": there are none."""
        super().__init__(port)
        self._slot_log = slot_log

    @property
    def relay_url(self) -> str:
        return self._url(RELAY) if self._slot_log else self.url

    def _create(self) -> None:
        password = self.data / "password"
        password.touch(mode=0o600)
        password.write_text(self._passwords[OWNER], encoding="ascii")
        # fmt: off
        self._run(
            _postgres_binary("initdb"), "-D", "data", "-U", OWNER, "--auth=scram-sha-256", "--pwfile=password",
            "--encoding=UTF8", "--no-locale", "--no-instructions", "--no-sync",
        )
        # fmt: on
        password.unlink()

    def command(self) -> list[str | Path]:
        options = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        if self._slot_log:
            options |= {"wal_level": "logical", "max_slot_wal_keep_size": self._slot_log}
        given = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return self._as_account(_postgres_binary("postgres"), "-D", "data", *given)

    def stop(self) -> None:
        if self._child is not None and self._child.alive:
            os.kill(self.pid, signal.SIGINT)  # at SIGTERM it would wait until every client has left
        super().stop()

    def ready(self) -> bool:
        try:
            with self._connect("postgres") as connection:
                if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                    return True
                connection.execute(f"CREATE ROLE {ACCOUNT} LOGIN PASSWORD '{self._passwords[ACCOUNT]}'")
                if self._slot_log:
                    rights = f"LOGIN REPLICATION PASSWORD '{self._passwords[RELAY]}' IN ROLE {ACCOUNT}"
                    connection.execute(f"CREATE ROLE {RELAY} {rights}")
                connection.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg.OperationalError:
            return False
        return True

    def grant(self) -> None:
        with self._connect(DATABASE) as connection:
            connection.execute(
                f"GRANT SELECT, INSERT, UPDATE, DELETE ON items, users, outbox, outbox_lanes TO {ACCOUNT}"
            )
            connection.execute(f"GRANT USAGE ON SEQUENCE outbox_id_seq TO {ACCOUNT}")

    def _connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(self.owner_url, dbname=database, autocommit=True, connect_timeout=2)


class MariaDbServer(DatabaseServer):
    name = "mariadb"
    scheme = "mariadb"

    @property
    def _first(self) -> Path:
        """Statements of the first start."""
        return self.data / "first.sql"

    def start(self) -> Self:
        super().start()
        self._first.unlink(missing_ok=True)
        return self

    def _create(self) -> None:
        (self.data / "data").mkdir()
        self._run(
            _binary("mariadb-install-db"),
            "--no-defaults",
            f"--datadir={self.data}/data",
            "--auth-root-authentication-method=normal",
        )
        self._first.touch(mode=0o600)
        accounts = [
            f"CREATE USER {name}@'127.0.0.1' IDENTIFIED BY '{password}';"
            for name, password in self._passwords.items()
        ]
        statements = [
            "DELETE FROM mysql.global_priv WHERE user NOT LIKE 'mariadb.%';",  # root has no password
            "FLUSH PRIVILEGES;",
            f"CREATE DATABASE {DATABASE};",
            *accounts,
            f"GRANT ALL ON {DATABASE}.* TO {OWNER}@'127.0.0.1' WITH GRANT OPTION;",
        ]
        self._first.write_text("\n".join(statements) + "\n", encoding="ascii")

    def command(self) -> list[str | Path]:
        # fmt: off
        return self._as_account(
            _binary("mariadbd"), "--no-defaults", f"--datadir={self.data}/data", "--bind-address=127.0.0.1",
            f"--port={self.port}", f"--socket={self.data}/socket", f"--pid-file={self.data}/pid",
            "--skip-name-resolve", *([f"--init-file={self._first}"] if self._first.exists() else []),
        )
        # fmt: on

    def ready(self) -> bool:
        try:
            self._connect().close()
        except pymysql.Error:
            return False
        return True

    def grant(self) -> None:
        with self._connect() as connection, connection.cursor() as cursor:
            for table in ("items", "users", "outbox", "outbox_lanes"):
                cursor.execute(
                    f"GRANT SELECT, INSERT, UPDATE, DELETE ON {DATABASE}.{table} TO {ACCOUNT}@'127.0.0.1'"
                )

    def _connect(self) -> "pymysql.Connection[pymysql.cursors.Cursor]":
        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user=OWNER,
            password=self._passwords[OWNER],
            database=DATABASE,
            autocommit=True,
            connect_timeout=2,
        )


def _account() -> pwd.struct_passwd:
    for name in _ACCOUNTS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise Unavailable(
        f"a database server does not run as root, and there is no account {' or '.join(_ACCOUNTS)}"
    )


def _postgres_binary(name: str) -> Path:
    """Debian keeps the server's programs out of the PATH. Raises `Unavailable`: not installed."""
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return newest[-1] if newest else _binary(name)


def _binary(name: str) -> Path:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Unavailable(f"{name} is not installed (Debian: apt-get install postgresql mariadb-server-core)")
    return Path(found)
