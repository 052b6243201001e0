"""What is checked: the compose file and two overlays, each with the servers that it expects."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.deploy_check import compose, kubernetes, servers
from infra.deploy_check.containers import Container
from recsys.kafka_connection import KafkaConnection
from serving.api.security import new_key
from serving.settings import Scope

_TLS_HOSTS = ("redis-master", "stream-kafka-bootstrap", "postgres")
_PARTITIONS = 12  # of the KafkaTopic resources; tests compare them with the settings


@dataclass(frozen=True)
class Scenario:
    """`volume`: the shared one that has the bundles. `key`: of the API; empty: it needs none. `kafka`: a way in that
    asks for nothing; None: there is none."""

    containers: Sequence[Container]
    hosts: Sequence[str]
    volume: str
    key: str = ""
    kafka: KafkaConnection | None = None


@contextmanager
def composed(deploy: Path, work: Path) -> Iterator[Scenario]:
    """The compose file, with its profile `database`."""
    file = deploy / "compose.yaml"
    with ExitStack() as stack:
        postgres = stack.enter_context(servers.PreparedPostgres(deploy / "postgres" / "accounts.sh"))
        environ = {
            "RECSYS_DATABASE_URL": _at(postgres.url, "postgres"),
            "DATABASE_OWNER_URL": _at(postgres.owner_url, "postgres"),
        }
        services = compose.read_services(file, environ)
        stack.enter_context(servers.ComposedRedis(services["redis"]["command"]))
        kafka = stack.enter_context(_kafka(services["kafka"]["environment"], 9092))
        containers = compose.read_containers(file, environ)
        yield Scenario(containers, tuple(services), "home", kafka=kafka.connection)


@contextmanager
def local(deploy: Path, work: Path) -> Iterator[Scenario]:
    """The overlay for one machine: Redis and Kafka from its own manifests."""
    documents = kubernetes.rendered(deploy / "k8s" / "overlays" / "local")
    containers = kubernetes.read_containers(documents, {})
    (kafka,) = (each for each in containers if each.image.startswith("apache/kafka:"))
    with servers.ComposedRedis(), _kafka(kafka.environ, 9093):
        ours = [each for each in containers if each.image.startswith("recsys:")]
        yield Scenario(ours, _services(documents), "recsys-home")


@contextmanager
def production(deploy: Path, work: Path) -> Iterator[Scenario]:
    """TLS, passwords and rights everywhere, with secrets as the operators would create them."""
    documents = kubernetes.rendered(deploy / "k8s" / "overlays" / "production")
    users = [each for each in documents if each["kind"] == "KafkaUser"]
    passwords = {user["metadata"]["name"]: secrets.token_urlsafe(12) for user in users}
    pem = servers.certificate(work, _TLS_HOSTS)
    ca = (work / "certificate.pem").read_bytes()
    key = new_key(work / "api-keys.json", "check", list(Scope))
    with ExitStack() as stack:
        redis = stack.enter_context(servers.TlsRedis(pem))
        postgres = stack.enter_context(servers.PreparedPostgres(deploy / "postgres" / "accounts.sh"))
        kafka = stack.enter_context(
            servers.SecuredKafka(9093, pem, "stream-kafka-bootstrap", servers.kafka_files(), _PARTITIONS)
        )
        kafka.admit(users, passwords)
        redis_url = (
            f"rediss://recsys:{redis.password}@redis-master:6379/0?ssl_ca_certs=/etc/recsys/redis/ca.crt"
        )
        given = {
            "recsys-redis": {"url": redis_url.encode(), "ca.crt": ca},
            "recsys-api": {
                "api-keys.json": (work / "api-keys.json").read_bytes(),
                "cursor-key": secrets.token_bytes(32),
            },
            "recsys-database": {"url": _at(postgres.url, "postgres").encode()},
            "recsys-database-owner": {"url": _at(postgres.owner_url, "postgres").encode()},
            "stream-cluster-ca-cert": {"ca.crt": ca},
            **{name: {"password": password.encode()} for name, password in passwords.items()},
        }
        containers = kubernetes.read_containers(documents, given)
        yield Scenario(containers, (*_services(documents), *_TLS_HOSTS), "recsys-home", key, kafka.connection)


SCENARIOS: Mapping[str, Callable[[Path, Path], Any]] = {
    "compose": composed,
    "local": local,
    "production": production,
}


def _kafka(environ: Mapping[str, str], port: int) -> servers.ConfiguredKafka:
    return servers.ConfiguredKafka(environ, port, servers.kafka_files())


def _services(documents: Sequence[kubernetes.Document]) -> tuple[str, ...]:
    return tuple(each["metadata"]["name"] for each in documents if each["kind"] == "Service")


def _at(url: str, host: str) -> str:
    return url.replace("@127.0.0.1:", f"@{host}:")
