"""The embedded services of one home folder: started once, found by every other command.

Whoever starts them writes `<home>/run/services.json` with their addresses and process ids. An explicit
RECSYS_REDIS_URL or RECSYS_KAFKA_BOOTSTRAP always wins over an embedded one.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from infra.local.kafka import KafkaBroker
from infra.local.process import pid_alive
from infra.local.redis import Persistence, RedisServer
from recsys.contracts.errors import Unavailable
from recsys.files import atomic_write
from recsys.settings import Settings

SettingsT = TypeVar("SettingsT", bound=Settings)


@dataclass(frozen=True, slots=True)
class Services:
    """Addresses of the event log and the store; a process id is 0 where the service is not an embedded one."""

    redis_url: str
    kafka_bootstrap: str
    redis_pid: int = 0
    kafka_pid: int = 0

    @property
    def alive(self) -> bool:
        """False if one of the embedded processes has ended."""
        return all(pid_alive(pid) for pid in (self.redis_pid, self.kafka_pid) if pid)

    def environ(self) -> Mapping[str, str]:
        """The environment variables that make another process use them."""
        return {"RECSYS_REDIS_URL": self.redis_url, "RECSYS_KAFKA_BOOTSTRAP": self.kafka_bootstrap}


def running(settings: Settings) -> Services | None:
    """The embedded services of this home; None if there are none, or what the file names has ended."""
    try:
        services = Services(**json.loads(_file(settings).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return services if services.alive else None


@contextmanager
def embedded(settings: Settings, fresh: bool = False) -> Iterator[Services]:
    """Start what the settings do not name, tell the other commands, and stop it on leaving.

    Redis keeps its data in `<home>/redis` from one start to the next (AOF), unless `fresh`; the broker forgets.
    Start from the main thread: the services end with the thread that started them.

    Raises:
        Unavailable: they run already, or a server cannot be started.
    """
    if there := running(settings):
        raise Unavailable(f"embedded services run already in {settings.home} (Redis pid {there.redis_pid})")
    run = _file(settings).parent
    run.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        redis = kafka = None
        if not settings.redis_url:
            data = settings.home / "redis"
            if fresh:
                shutil.rmtree(data, ignore_errors=True)
            redis = stack.enter_context(RedisServer(data, Persistence.AOF))
        if not settings.kafka_bootstrap:
            kafka = stack.enter_context(KafkaBroker(run, settings.partitions))
        services = Services(
            redis_url=redis.url if redis else settings.redis_url,
            kafka_bootstrap=kafka.bootstrap if kafka else settings.kafka_bootstrap,
            redis_pid=redis.pid if redis else 0,
            kafka_pid=kafka.pid if kafka else 0,
        )
        stack.callback(_file(settings).unlink, missing_ok=True)
        atomic_write(_file(settings), json.dumps(asdict(services), indent=2))
        yield services


def connected(settings: SettingsT) -> SettingsT:
    """The settings with both addresses filled in: explicit ones, else those of the running embedded services.

    Raises:
        Unavailable: neither is there; says how to start them.
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
            "redis_url": settings.redis_url or services.redis_url,
            "kafka_bootstrap": settings.kafka_bootstrap or services.kafka_bootstrap,
        }
    )


def _file(settings: Settings) -> Path:
    return settings.home / "run" / "services.json"
