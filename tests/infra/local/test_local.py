"""The embedded services: real servers that start, die, restart, and never outlive their parent."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from infra.local.memory_kafka import MemoryKafka
from infra.local.process import ChildProcess, pid_alive
from infra.local.redis import Persistence, RedisServer, server_binary
from infra.local.services import Services, connected, embedded, running
from recsys.contracts.errors import InvalidConfig, Unavailable
from recsys.contracts.types import Topic
from recsys.settings import Settings
from streaming.log import KafkaSource, reachable
from streaming.log.topics import connect


def eventually(condition: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# --- processes --------------------------------------------------------------------------------------------------


def test_a_child_that_exits_early_is_an_error_with_its_output(tmp_path: Path) -> None:
    child = ChildProcess([sys.executable, "-c", "print('no luck'); exit(3)"], tmp_path / "log")
    with pytest.raises(Unavailable, match=r"ended with 3: no luck"):
        child.wait_until(lambda: False, 30)


def test_a_child_that_is_never_ready_is_killed(tmp_path: Path) -> None:
    child = ChildProcess([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log")
    with pytest.raises(Unavailable, match="not ready"):
        child.wait_until(lambda: False, 0.1)
    assert not child.alive


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    program = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""
    child = ChildProcess([sys.executable, "-c", program], tmp_path / "log")
    child.wait_until(lambda: "deaf" in child.log_tail(), 30)
    child.stop(timeout_s=0.2)
    assert not child.alive


def test_the_end_of_a_child_is_its_success_or_an_error_with_its_output(tmp_path: Path) -> None:
    ChildProcess([sys.executable, "-c", ""], tmp_path / "log").finish(30)
    failing = ChildProcess([sys.executable, "-c", "print('no room'); raise SystemExit(3)"], tmp_path / "log")
    with pytest.raises(Unavailable, match="ended with 3: .*no room"):
        failing.finish(30)
    endless = ChildProcess(["sleep", "60"], tmp_path / "log")
    with pytest.raises(Unavailable, match="did not end in 0 s"):
        endless.finish(0.1)
    assert not endless.alive


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = f"""
import time
from pathlib import Path
from infra.local.process import ChildProcess
child = ChildProcess(["sleep", "60"], Path({str(tmp_path / "log")!r}))
print(child.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert pid_alive(child)
        parent.kill()
    assert eventually(lambda: not pid_alive(child))


# --- Redis ------------------------------------------------------------------------------------------------------


def test_the_server_binary_is_found() -> None:
    assert os.access(server_binary(), os.X_OK)


@pytest.mark.redis
@pytest.mark.parametrize(
    ("persistence", "kept"), [(Persistence.NONE, None), (Persistence.RDB, b"1"), (Persistence.AOF, b"1")]
)
def test_what_survives_a_kill_of_redis(persistence: Persistence, kept: bytes | None) -> None:
    with RedisServer(persistence=persistence) as server, redis.Redis.from_url(server.url) as client:
        client.set("a", 1)
        if persistence is Persistence.RDB:
            client.save()
        if persistence is Persistence.AOF:
            assert client.waitaof(1, 0, 30_000)[0] == 1
        before = server.pid
        server.kill()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        server.start()
        assert server.pid != before
        assert client.get("a") == kept


@pytest.mark.redis
def test_two_servers_are_independent() -> None:
    with RedisServer() as first, RedisServer() as second:
        redis.Redis.from_url(first.url).set("a", 1)
        assert redis.Redis.from_url(second.url).get("a") is None
        data = first.data
    assert not data.exists()


# --- Kafka ------------------------------------------------------------------------------------------------------


@pytest.mark.kafka
def test_the_broker_has_the_topics_and_loses_them_when_it_stops() -> None:
    with MemoryKafka(partitions=3) as broker:
        ids = set()
        for _ in range(2):
            source = KafkaSource(broker.connection)
            assert [source.partitions(topic) for topic in Topic] == [3] * len(Topic)
            ids.add(source.log_id(Topic.EVENTS))
            source.close()
            broker.kill()
            assert not reachable(broker.connection, 0.2)
            broker.start()
        assert len(ids) == 2


# --- both -------------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, redis_url="", kafka_bootstrap="")


@pytest.mark.redis
@pytest.mark.kafka
def test_other_commands_find_the_embedded_services_while_they_run(settings: Settings) -> None:
    with pytest.raises(Unavailable, match="recsys up"):
        connected(settings)
    with embedded(settings) as services:
        assert running(settings) == services
        found = connected(settings)
        assert (found.redis_url.get_secret_value(), found.kafka_bootstrap) == (
            services.redis_url,
            services.kafka_bootstrap,
        )
        assert found.home == settings.home
        explicit = settings.model_copy(update={"redis_url": SecretStr("redis://elsewhere")})
        assert connected(explicit).redis_url is explicit.redis_url
        assert connected(explicit).kafka_bootstrap == services.kafka_bootstrap
        with pytest.raises(Unavailable, match="already running"), embedded(settings):
            pass
        redis.Redis.from_url(services.redis_url).set("a", 1)
    assert running(settings) is None
    assert not services.alive
    with embedded(settings) as services:
        assert redis.Redis.from_url(services.redis_url).get("a") == b"1"
    with embedded(settings, fresh=True) as services:
        assert redis.Redis.from_url(services.redis_url).get("a") is None


@pytest.mark.redis
@pytest.mark.kafka
def test_configured_services_are_not_started(
    settings: Settings, redis_url: str, kafka_broker: MemoryKafka
) -> None:
    """But a configured Kafka gets the topics that it lacks."""
    both = settings.model_copy(
        update={"redis_url": SecretStr(redis_url), "kafka_bootstrap": kafka_broker.bootstrap}
    )
    with connect(kafka_broker.connection) as admin:
        admin.delete_topics([Topic.ITEMS])

        def names() -> set[str]:
            return {topic["name"] for topic in admin.describe_topics()}

        assert eventually(lambda: Topic.ITEMS not in names(), 30)
        with embedded(both) as services:
            assert services == Services(redis_url, kafka_broker.bootstrap)
            assert names() >= set(Topic)
    assert connected(both) is both
    more = both.model_copy(update={"partitions": both.partitions + 1})
    with pytest.raises(InvalidConfig, match="partitions"), embedded(more):
        pass


@pytest.mark.redis
@pytest.mark.kafka
def test_up_ends_at_once_where_nothing_is_its_own(
    tmp_path: Path, redis_url: str, kafka_broker: MemoryKafka
) -> None:
    named = {"HOME": str(tmp_path), "REDIS_URL": redis_url, "KAFKA_BOOTSTRAP": kafka_broker.bootstrap}
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli.main", "up"],
        env=os.environ | {f"RECSYS_{name}": value for name, value in named.items()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert kafka_broker.bootstrap in done.stderr
    assert "Ctrl-C" not in done.stderr


def test_the_file_of_ended_services_is_ignored(settings: Settings) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    path = settings.home / "run" / "services.json"
    path.parent.mkdir(parents=True)
    services = {
        "redis_url": "redis://x",
        "kafka_bootstrap": "x:1",
        "redis_pid": ended.pid,
        "kafka_pid": os.getpid(),
    }
    path.write_text(json.dumps(services), encoding="utf-8")
    assert running(settings) is None
    path.write_text("{ half", encoding="utf-8")
    assert running(settings) is None
    with pytest.raises(Unavailable, match="recsys up"):
        connected(settings)


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.kafka
def test_up_and_status(tmp_path: Path) -> None:
    """`recsys up` until Ctrl-C, `recsys status` beside it, nothing left afterwards."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("RECSYS_")} | {
        "RECSYS_HOME": str(tmp_path)
    }
    recsys = [sys.executable, "-m", "infra.cli.main"]

    def status() -> dict[str, dict[str, object]]:
        done = subprocess.run([*recsys, "status", "--json"], env=environ, capture_output=True, check=False)
        found: dict[str, dict[str, object]] = json.loads(done.stdout)
        assert done.returncode == (0 if found["redis"]["reachable"] and found["kafka"]["reachable"] else 1)
        return found

    assert not status()["redis"]["reachable"]
    with subprocess.Popen([*recsys, "up"], env=environ, stderr=subprocess.PIPE) as up:
        services = tmp_path / "run" / "services.json"
        assert eventually(services.exists, 60)
        pids = [json.loads(services.read_text())[name] for name in ("redis_pid", "kafka_pid")]
        found = status()
        assert found["redis"]["reachable"]
        topics: Any = found["kafka"]["topics"]
        assert {name: topic["end_offsets"] for name, topic in topics.items()} == {
            str(t): [0] * 4 for t in Topic
        }
        assert topics["events"]["worker_lag"] == topics["impressions"]["archiver_lag"] == 0
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0
    assert not services.exists()
    assert not any(pid_alive(pid) for pid in pids)
