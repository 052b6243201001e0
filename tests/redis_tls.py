"""A Redis that speaks TLS alone."""

import shutil
from pathlib import Path

import redis

from infra.local.redis import RedisServer
from recsys.contracts.errors import Unavailable


class TlsRedisServer(RedisServer):
    """Of a server on the PATH: the bundled one is built without TLS."""

    def __init__(self, certificate: Path, asks_clients: bool = False) -> None:
        """`certificate`: with its key, and its own authority. `asks_clients`: for a certificate of that authority.
        Raises `Unavailable`: there is no such server."""
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        if found is None:
            raise Unavailable("no Redis server with TLS: apt-get install redis-server")
        super().__init__()
        self._binary = Path(found)
        self._certificate = certificate
        self._asks_clients = asks_clients

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.port}/0?ssl_ca_certs={self._certificate}"

    def command(self) -> list[str | Path]:
        file = self._certificate
        # fmt: off
        return [
            self._binary, "--bind", "127.0.0.1", "--port", "0", "--tls-port", str(self.port), "--save", "",
            "--tls-cert-file", file, "--tls-key-file", file, "--tls-ca-cert-file", file,
            "--tls-auth-clients", "yes" if self._asks_clients else "no",
        ]
        # fmt: on

    def admin(self) -> redis.Redis:
        file = str(self._certificate)
        return redis.Redis(
            port=self.port,
            ssl=True,
            ssl_ca_certs=file,
            ssl_certfile=file,
            ssl_keyfile=file,
            ssl_check_hostname=False,
        )
