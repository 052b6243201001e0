"""Real servers for the tests, on free ports, started once and stopped at the end.

`redis_url` and `new_topic` give each test a database and topics of its own on the shared servers. A test that
kills a server takes a private one: `RedisServer(...)` or `kafka_broker`, both start in a fraction of a second. With
`pytest -n` "once" is once in each process.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import hypothesis
import pytest
import structlog

from infra.local.apache_kafka import ApacheKafka
from infra.local.databases import DatabaseServer
from infra.local.kafka_jars import kafka_jars
from infra.local.memory_kafka import MemoryKafka
from infra.local.redis import RedisServer, allow
from infra.local.redis_replicas import LocalRedisCluster, LocalRedisSentinel
from recsys.contracts.errors import Unavailable
from recsys.kafka_connection import KafkaConnection
from recsys.settings import Settings
from streaming.log import create_topics
from streaming.settings import StreamSettings
from tests.certificates import self_signed
from tests.databases import SLOT, emptied, sqlite_url, started
from tests.object_stores import new_bucket, s3_server
from tests.redis_tls import TlsRedisServer

# A busy machine makes any example slow; pytest-timeout ends tests that hang.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")

# Without local variables, as in every process (`recsys.observability.logs`): to show them takes seconds.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)

_SHARED = Path(__file__).parents[2] / "shared"  # of machines that cannot download jars
_TEST_DATABASES = 1024
_numbers = itertools.count()
LEAST_RIGHTS = ("+@all", "-@dangerous", "+info", "+scan")  # docs/operations.md
AllowedUrl = Callable[[str], str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with slow tests first, so that no process ends with a long one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The shared S3, moto's server, which believes every key."""
    with s3_server(tmp_path_factory.mktemp("moto") / "moto.log") as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a new bucket; the environment has what reaches it."""
    return new_bucket(s3_endpoint, monkeypatch)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The shared Redis."""
    with RedisServer(databases=_TEST_DATABASES) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty database of the shared Redis for this test."""
    number = next(_numbers)
    assert number < _TEST_DATABASES, "raise _TEST_DATABASES"
    return redis_server.url.removesuffix("/0") + f"/{number}"


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[AllowedUrl]:
    """The shared cluster of three masters: its URL for an account that may do in a namespace what the project needs."""
    with LocalRedisCluster() as cluster:
        yield lambda namespace: _allow(cluster.servers, cluster.url, namespace)


@pytest.fixture(scope="session")
def redis_sentinel() -> Iterator[AllowedUrl]:
    """The shared master that a Sentinel watches; as `redis_cluster`."""
    with LocalRedisSentinel() as watched:
        yield lambda namespace: _allow(watched.servers, watched.url, namespace)


@pytest.fixture(scope="session")
def redis_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AllowedUrl]:
    """The shared server with TLS; as `redis_cluster`. Skipped where no server has TLS, as the bundled one has none."""
    certificate = self_signed(tmp_path_factory.mktemp("tls") / "server.pem")
    try:
        server = TlsRedisServer(certificate)
    except Unavailable as error:
        pytest.skip(str(error))
    with server:
        yield lambda namespace: _allow([server], server.url, namespace)


def _allow(servers: Sequence[RedisServer], url: str, namespace: str) -> str:
    for server in servers:
        allow(server, namespace, "pässword", f"~{namespace}:*", *LEAST_RIGHTS)
    scheme, address = url.split("://")
    return f"{scheme}://{namespace}:{quote('pässword')}@{address}"


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaConnection]:
    """The shared broker. Tests use topics from `new_topic`, not the project's own. In Kafka their names have a prefix,
    as with RECSYS_KAFKA_TOPIC_PREFIX."""
    with MemoryKafka(topic_prefix="tests.") as broker:
        yield broker.connection


@pytest.fixture
def new_topic(kafka: KafkaConnection) -> Callable[..., str]:
    """Create a topic for this test: `new_topic(partitions=4)` returns its name."""

    def create(partitions: int = 4) -> str:
        name = f"test-{next(_numbers)}"
        create_topics(kafka, [name], partitions)
        return name

    return create


@pytest.fixture
def kafka_broker() -> Iterator[MemoryKafka]:
    """A private broker with the project's topics, to kill and restart."""
    with MemoryKafka() as broker:
        yield broker


@pytest.fixture(scope="session")
def apache_jars() -> Path:
    """The jars of Apache Kafka; without them, the test is skipped."""
    named = Settings().kafka_jars
    try:
        return kafka_jars(named or _beside("kafka"))
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def spark_jars() -> Path | None:
    """The jars of Spark's Kafka connector; None: from Maven Central."""
    return StreamSettings().spark_jars or _beside("spark")


def _beside(name: str) -> Path | None:
    folder = _SHARED / name / "jars"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def apache_kafka(apache_jars: Path) -> Iterator[ApacheKafka]:
    """The shared Apache Kafka, for tests with the marker `apache_kafka`. One that a test kills is its own:
    `ApacheKafka(jars=apache_jars)`, up in four seconds."""
    with ApacheKafka(jars=apache_jars) as broker:
        yield broker


@pytest.fixture(scope="session")
def postgresql() -> Iterator[DatabaseServer]:
    """The shared PostgreSQL, with the tables."""
    yield from started("postgresql")


@pytest.fixture(scope="session")
def mariadb() -> Iterator[DatabaseServer]:
    """The shared MariaDB, with the tables."""
    yield from started("mariadb")


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database with the tables: `parametrize("database_url", tests.databases.ALL, indirect=True)`. The account
    of a server's URL may only read and write."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path)
    if request.param == SLOT:
        return emptied(request.getfixturevalue("postgresql").relay_url)
    server: DatabaseServer = request.getfixturevalue(request.param)
    return emptied(server.url)
