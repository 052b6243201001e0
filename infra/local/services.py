"""The embedded services of one home folder: started by one command, found by the others.

The starting process writes addresses and process ids to `<home>/run/services.json`. An explicit RECSYS_REDIS_URL or
RECSYS_KAFKA_BOOTSTRAP wins over an embedded service.
"""

import json
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import SecretStr

from infra.local.brokers import local_kafka
from infra.local.kafka import KafkaBroker
from infra.local.process import pid_alive
from infra.local.redis import Persistence, RedisServer
from recsys.contracts.errors import InvalidData, Unavailable
from recsys.contracts.types import Topic
from recsys.files import staged_file
from recsys.operator_files import read_json
from recsys.settings import LocalKafka, Settings
from streaming.log import create_topics

SettingsT = TypeVar("SettingsT", bound=Settings)


@dataclass(frozen=True, slots=True)
class Services:
    """Addresses of the event log and the store. A process id of 0: not embedded."""

    redis_url: str
    kafka_bootstrap: str
    redis_pid: int = 0
    kafka_pid: int = 0

    @property
    def alive(self) -> bool:
        """False if an embedded process has ended."""
        return all(pid_alive(pid) for pid in (self.redis_pid, self.kafka_pid) if pid)

    def environ(self) -> Mapping[str, str]:
        """The settings with which another process uses these services."""
        return {"RECSYS_REDIS_URL": self.redis_url, "RECSYS_KAFKA_BOOTSTRAP": self.kafka_bootstrap}


def running(settings: Settings) -> Services | None:
    """The running embedded services of this home, or None."""
    try:
        services = read_json(_file(settings), Services, InvalidData)
    except (FileNotFoundError, InvalidData):
        return None
    return services if services.alive else None


@contextmanager
def embedded(settings: Settings, fresh: bool = False) -> Iterator[Services]:
    """Start the services that the settings do not name, publish their addresses, and stop them on exit.
    Topics that a named Kafka lacks are created, as `recsys topics create` does.

    Redis persists its data in `<home>/redis` (AOF), and Apache Kafka in `<home>/kafka`; `fresh` deletes both. The
    log of the other broker is in memory. Call from the main thread: the services end with the thread that started
    them.

    Raises:
        Unavailable: they are running already, a server cannot be started, or the named Kafka does not answer.
        InvalidConfig: a topic there has a different number of partitions.
    """
    if there := running(settings):
        raise Unavailable(
            f"embedded services are already running in {settings.home} (Redis pid {there.redis_pid})"
        )
    run = _file(settings).parent
    run.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        redis = kafka = None
        if not settings.redis_url:
            data = settings.home / "redis"
            if fresh:
                shutil.rmtree(data, ignore_errors=True)
            redis = stack.enter_context(RedisServer(data, Persistence.AOF))
        if settings.kafka_bootstrap:
            create_topics(settings.kafka, list(Topic), settings.partitions, settings.topic_rules)
        else:
            kafka = stack.enter_context(_broker(settings, run, fresh))
        services = Services(
            redis_url=redis.url if redis else settings.redis_url.get_secret_value(),
            kafka_bootstrap=kafka.bootstrap if kafka else settings.kafka_bootstrap,
            redis_pid=redis.pid if redis else 0,
            kafka_pid=kafka.pid if kafka else 0,
        )
        stack.callback(_file(settings).unlink, missing_ok=True)
        with staged_file(_file(settings)) as file:  # the Redis URL may have a password
            file.touch(mode=stat.S_IRUSR | stat.S_IWUSR)
            file.write_text(json.dumps(asdict(services), indent=2), encoding="utf-8")
        yield services


def connected(settings: SettingsT) -> SettingsT:
    """Fill in missing addresses with those of the running embedded services.

    Raises:
        Unavailable: no service is running; the message says how to start one.
    """
    if settings.redis_url and settings.kafka_bootstrap:
        return settings
    services = running(settings)
    if services is None:
        raise Unavailable(
            f"no Redis or Kafka: start embedded ones with `recsys up` (home: {settings.home}), "
            "or set RECSYS_REDIS_URL and RECSYS_KAFKA_BOOTSTRAP"
        )
    return settings.model_copy(
        update={
            "redis_url": settings.redis_url or SecretStr(services.redis_url),
            "kafka_bootstrap": settings.kafka_bootstrap or services.kafka_bootstrap,
        }
    )


def with_kafka(settings: SettingsT) -> SettingsT:
    """`connected` for what needs no Redis: then neither address nor password of one has to be configured."""
    return settings if settings.kafka_bootstrap else connected(settings)


def _broker(settings: Settings, run: Path, fresh: bool) -> KafkaBroker:
    """A log that outlives the broker has a folder of its own, next to that of Redis."""
    if settings.local_kafka is LocalKafka.MEMORY:
        return local_kafka(run, settings.partitions, settings=settings)
    data = settings.home / "kafka"
    if fresh:
        shutil.rmtree(data, ignore_errors=True)
    return local_kafka(data, settings.partitions, settings=settings)


def _file(settings: Settings) -> Path:
    return settings.home / "run" / "services.json"
