"""Redis, Kafka and PostgreSQL as the deployment files want them, on loopback and at the ports that they name."""

import os
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import psycopg
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from infra.deploy_check.kubernetes import Document
from infra.local.apache_kafka import ApacheKafka
from infra.local.databases import ACCOUNT, DATABASE, OWNER, PostgresServer
from infra.local.kafka_jars import java, kafka_jars
from infra.local.process import free_port
from infra.local.redis import RedisServer, allow
from recsys.contracts.errors import Unavailable
from recsys.settings import Settings

_LEAST_RIGHTS = ("~recsys:*", "+@all", "-@dangerous", "+info", "+scan")  # docs/operations.md
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


def certificate(folder: Path, names: Iterable[str]) -> Path:
    """A certificate for these hosts that is its own authority, with its key behind it."""
    key, file = folder / "key.pem", folder / "certificate.pem"
    alternatives = ",".join(f"DNS:{name}" for name in names)
    # fmt: off
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=recsys", "-addext", f"subjectAltName={alternatives}", "-keyout", str(key), "-out", str(file),
    ]
    # fmt: on
    _run(command)
    both = folder / "both.pem"
    both.write_bytes(key.read_bytes() + file.read_bytes())
    return both


class ComposedRedis(RedisServer):
    """With the options of a manifest's command line, `valkey-server …`."""

    def __init__(self, command: Sequence[str] = (), port: int = 6379) -> None:
        super().__init__(port=port, options=command[1:])


class TlsRedis(RedisServer):
    """With TLS at its port, and an account of the least rights, `recsys`. Of the PATH: the bundled one has no TLS."""

    def __init__(self, pem: Path) -> None:
        super().__init__(port=free_port())
        self._pem = pem
        self.password = secrets.token_urlsafe(12)

    def command(self) -> list[str | Path]:
        # fmt: off
        return [
            "redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--tls-port", "6379", "--save", "",
            "--tls-cert-file", self._pem, "--tls-key-file", self._pem, "--tls-ca-cert-file", self._pem,
            "--tls-auth-clients", "no",
        ]
        # fmt: on

    def start(self) -> Self:
        super().start()
        allow(self, "recsys", self.password, *_LEAST_RIGHTS)
        return self


class ConfiguredKafka(ApacheKafka):
    """With the environment of a manifest, which the image's own program turns into properties and a formatted log."""

    def __init__(self, environ: Mapping[str, str], port: int, jars: Path) -> None:
        super().__init__(port=port, jars=jars)
        # the image's script sets an id where there is none
        self._environ = {**environ, "KAFKA_LOG_DIRS": str(self._log), "CLUSTER_ID": self._cluster_id}

    def _properties(self) -> dict[str, str]:
        with tempfile.TemporaryDirectory() as folder:
            defaults, final = Path(folder) / "defaults", Path(folder) / "final"
            defaults.mkdir()
            final.mkdir()
            for name in ("server.properties", "log4j2.yaml", "tools-log4j2.yaml"):
                (defaults / name).touch()
            folders = {"default": defaults, "mounted": defaults, "final": final}
            options = [part for kind, path in folders.items() for part in (f"--{kind}-configs-dir", path)]
            command = [*self._java("-Xmx128m"), "kafka.docker.KafkaDockerWrapper", "setup", *options]
            _run(command, {"PATH": os.environ["PATH"], **self._environ})
            lines = (final / "server.properties").read_text(encoding="utf-8").splitlines()
        pairs = (line.partition("=") for line in lines if "=" in line)
        return {name.strip(): value.strip() for name, _, value in pairs}

    def start(self) -> Self:
        """Without topics: `recsys topics create` is among what is checked."""
        self.launch()
        self.wait()
        return self

    def ready(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0


class SecuredKafka(ApacheKafka):
    """As Strimzi runs it: TLS and SCRAM-SHA-512 for clients, who may do what the users' resources list."""

    def __init__(self, port: int, pem: Path, host: str, jars: Path, partitions: int) -> None:
        inner, controller = free_port(), free_port()
        listeners = f"PLAINTEXT://127.0.0.1:{inner},SASL_SSL://127.0.0.1:{port}"
        options = {
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{inner},SASL_SSL://{host}:{port}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL",
            "inter.broker.listener.name": "PLAINTEXT",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(pem),
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": _SCRAM,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",  # the broker itself, and this check, by the inner port
        }
        super().__init__(partitions=partitions, port=inner, jars=jars, options=options)

    def admit(self, users: Sequence[Document], passwords: Mapping[str, str]) -> None:
        """Create the users of `KafkaUser` resources with their rights."""
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            admin.alter_user_scram_credentials(
                [
                    UserScramCredentialUpsertion(name, ScramMechanism.SCRAM_SHA_512, password=passwords[name])
                    for name in (user["metadata"]["name"] for user in users)
                ]
            )
            admin.create_acls([rule for user in users for rule in _rules(user)])
        finally:
            admin.close()


def _rules(user: Document) -> Iterator[ACL]:
    for granted in user["spec"]["authorization"]["acls"]:
        resource = granted["resource"]
        pattern = ResourcePattern(ResourceType[resource["type"].upper()], resource["name"])
        for operation in granted["operations"]:
            yield ACL(
                principal=f"User:{user['metadata']['name']}",
                host="*",
                operation=ACLOperation[operation.upper()],
                permission_type=ACLPermissionType.ALLOW,
                resource_pattern=pattern,
            )


class PreparedPostgres(PostgresServer):
    """With the second account that `script` creates, run as the image runs it."""

    def __init__(self, script: Path) -> None:
        super().__init__(port=5432)
        self._script = script

    def start(self) -> Self:
        super().start()
        environ = {
            "PATH": os.environ["PATH"],
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGPASSWORD": self._passwords[OWNER],
            "POSTGRES_USER": OWNER,
            "POSTGRES_DB": DATABASE,
            "POSTGRES_APP_PASSWORD": self._passwords[ACCOUNT],
        }
        _run([self._script], environ)
        return self

    def ready(self) -> bool:
        try:
            with self._connect("postgres") as connection:
                if not connection.execute(
                    "SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]
                ).fetchone():
                    connection.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg.OperationalError:
            return False
        return True


def kafka_files() -> Path:
    """Raises `Unavailable`: there is no Apache Kafka, or no Java."""
    java()
    return kafka_jars(Settings().kafka_jars)


def _run(command: Sequence[str | Path], environ: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{command[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")
