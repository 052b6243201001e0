"""Clients without a key, and what leaves the house: real processes of `recsys serve`, raw sockets."""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import redis

from infra.evaluation.fault_injection.hostile import faulty_api
from infra.evaluation.fault_injection.hostile.attacks import Attack, Broken
from infra.local.brokers import local_kafka
from infra.local.children import recsys_command
from infra.local.process import ChildProcess, free_port
from infra.local.redis import RedisServer
from serving.api.security import new_key
from serving.settings import Scope

_FAULTY_API = faulty_api.__name__  # all of `recsys serve`, and a route with a bug
_AWAY = "127.0.0.1:1"  # nothing listens there
_START_S = 120
_IDLE = 1_100
_BODY = "the-body-of-a-request"
_PASSWORD = "a-password-of-redis"  # noqa: S105 - of the attack's own Redis
_UPLOAD = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n%s\r\n"


@dataclass
class _Api:
    port: int
    process: ChildProcess

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=30)

    def connect(self, sent: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(sent)
        return connection

    def health_ms(self) -> float:
        """How long `/healthz` takes on a new connection."""
        began = time.perf_counter()
        with self.connect(b"GET /healthz HTTP/1.0\r\n\r\n") as connection:
            if b" 200 OK" not in _end(connection):
                raise Broken("/healthz does not answer 200")
        return (time.perf_counter() - began) * 1e3

    def answered(self, status: str) -> int:
        """Requests that ended with a status like this, by `/metrics`."""
        lines = self.get("/metrics").text.splitlines()
        found = [line for line in lines if line.startswith("recsys_http_requests_total")]
        return sum(int(float(line.rsplit(" ", 1)[1])) for line in found if f'status="{status}' in line)


@contextmanager
def _serving(folder: Path, **settings: str) -> Iterator[_Api]:
    """An API whose Redis and Kafka are away unless the settings name them. It has one bundle, which is damaged."""
    bundle = folder / "bundles" / "damaged"
    bundle.mkdir(parents=True, exist_ok=True)
    (bundle / "manifest.json").write_text("{}")
    port = free_port()
    api = _Api(port, _start(folder, "api", [sys.executable, "-m", _FAULTY_API], port=str(port), **settings))
    try:
        api.process.wait_until(lambda: _listens(port), _START_S)
        yield api
    finally:
        api.process.stop()


def _start(folder: Path, name: str, command: list[str], **settings: str) -> ChildProcess:
    environ = {
        "RECSYS_HOME": str(folder),
        "RECSYS_REDIS_URL": f"redis://{_AWAY}/0",
        "RECSYS_KAFKA_BOOTSTRAP": _AWAY,
        **{f"RECSYS_{name.upper()}": value for name, value in settings.items()},
    }
    return ChildProcess(command, folder / "logs" / f"{name}.log", environ=os.environ | environ)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError, httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200
    return False


def _end(connection: socket.socket) -> bytes:
    """What is still sent until the server closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65_536):
            found += piece
    return found


def _idle_connections(folder: Path) -> str:
    with _serving(folder, max_connections_per_client="1024") as api, ExitStack() as opened:
        idle = [opened.enter_context(api.connect()) for _ in range(_IDLE)]
        took_ms = max(api.health_ms() for _ in range(5))
        bundles = api.get("/v1/bundles").text
        if "damaged" not in bundles or "open files" in bundles:
            raise Broken(f"bundles cannot be read: {bundles[:200]}")
        if _end(idle[0]):
            raise Broken("the longest idle connection got an answer")
    return f"/healthz at most {took_ms:.0f} ms, bundles are read, the longest idle connections were closed"


def _endless_header(folder: Path) -> str:
    with _serving(folder) as api, api.connect(b"GET / HTTP/1.1\r\na: ") as endless:
        sent, slowest_ms = 0, 0.0
        with contextlib.suppress(OSError):
            while sent < 100 << 20:
                sent += endless.send(b"x" * 65_536)
        slowest_ms = api.health_ms()
        if sent >= 100 << 20:
            raise Broken("a header of 100 MiB was read")
    return f"closed after {sent >> 10} KiB; /healthz {slowest_ms:.0f} ms"


def _slow_clients(folder: Path) -> str:
    with _serving(folder, header_s="1", body_s="1", idle_s="1") as api:
        upload = _UPLOAD % (b"/v1/events", b"")
        for what, sent in {
            "nothing": b"",
            "half a header": b"GET / HT",
            "half a body": upload + b"{",
        }.items():
            with api.connect(sent) as slow:
                if b" 200 " in _end(slow):
                    raise Broken(f"{what} was answered")
    return "each is closed at its deadline"


def _host(folder: Path) -> str:
    with _serving(folder) as api:
        for path in ("/v1/bundles", "/v1/bundles/", "/static", "/openapi.json/", "/nothing"):
            answer = api.get(path, host="evil.example")
            if "evil.example" in f"{answer.headers}{answer.text}":
                raise Broken(f"{path} repeats it: {answer.headers.get('location')}")
    return "no answer repeats it"


def _keys(folder: Path) -> str:
    path = folder / "keys.json"
    key, other = new_key(path, "shop", [Scope.READ]), new_key(path, "other", [Scope.READ])
    with _serving(folder, api_keys=str(path), guarded='["metrics"]') as api:
        if api.get("/metrics").status_code != 401 or api.get("/metrics", **_sent(key)).status_code != 200:
            raise Broken("/metrics is not behind its key")
        entries = json.loads(path.read_text())
        path.write_text(json.dumps([entry for entry in entries if entry["name"] != "shop"]))
        for status, sent in ((401, key), (200, other)):
            deadline = time.monotonic() + 30
            while api.get("/v1/bundles", **_sent(sent)).status_code != status:
                if time.monotonic() > deadline:
                    raise Broken("a revoked key still opens, or another one no longer does")
        wrong = [api.get("/v1/bundles", **_sent("rk_shop_wrong")) for _ in range(8)]
        slowest_ms = max(answer.elapsed.total_seconds() * 1e3 for answer in wrong)
        right_ms = api.get("/v1/bundles", **_sent(other)).elapsed.total_seconds() * 1e3
    return (
        f"revoked without a restart; wrong keys wait up to {slowest_ms:.0f} ms, a right one {right_ms:.0f} ms"
    )


def _records(folder: Path) -> str:
    path = folder / "keys.json"
    key = new_key(path, "shop", [Scope.WRITE])
    items = {"items": [{"item_id": f"i{n}", "title": "t"} for n in range(100)]}
    with (
        RedisServer(folder / "redis") as server,
        _serving(
            folder, api_keys=str(path), redis_url=server.url, rate_per_key="1", burst_per_key="10"
        ) as api,
    ):
        url = f"http://127.0.0.1:{api.port}/v1/items"
        statuses = [
            httpx.post(url, json=items, headers=_sent(key), timeout=30).status_code for _ in range(10)
        ]
    if statuses.count(202) > 1 or statuses.count(429) < 9:
        raise Broken(f"batches of 100 at one record per second: {statuses}")
    return "one batch of 100 is taken on credit, the next nine get 429"


def _sent(key: str) -> dict[str, str]:
    return {"x-api-key": key}


def secrets_in_logs(folder: Path) -> str:
    """API, feature worker and archiver, with failing requests, aborted uploads, and Redis and the broker killed."""
    path = folder / "keys.json"
    key = new_key(path, "shop", [Scope.READ, Scope.WRITE, Scope.ADMIN])
    with (
        RedisServer(folder / "redis") as server,
        local_kafka(folder / "kafka") as broker,
        ExitStack() as opened,
    ):
        with redis.Redis(port=server.port) as client:
            client.config_set("requirepass", _PASSWORD)
        settings = {
            "redis_url": f"redis://:{_PASSWORD}@127.0.0.1:{server.port}/0",
            "kafka_bootstrap": broker.bootstrap,
            "api_keys": str(path),
        }
        for name in ("worker", "archive"):
            opened.callback(_start(folder, name, recsys_command("stream", name), **settings).stop)
        api = opened.enter_context(_serving(folder, **settings))
        _provoke(api, key)
        server.kill()
        broker.kill()
        _provoke(api, key)
        time.sleep(2)  # worker and archiver notice
        failed, left = api.answered("500"), api.answered("499")
    logs = {log.name: log.read_text(encoding="utf-8") for log in (folder / "logs").iterdir()}
    for name, text in logs.items():
        for secret in (key, _PASSWORD, _BODY):
            if secret in text:
                raise Broken(f"{name} has {secret!r}")
    if not left or failed != 2:
        raise Broken(f"{left} aborted uploads are 499, {failed} of 2 failures are 500")
    size = sum(map(len, logs.values()))
    return f"{left} aborted uploads are 499, {failed} requests 500; no secret in {size} bytes of logs"


def _provoke(api: _Api, key: str) -> None:
    """Requests that fail in every way that is known, with the secret in header, path and body."""
    for route in (b"/v1/events", b"/v1/items", b"/v1/recommendations", b"/v1/users"):
        header = b"x-api-key: %s\r\n" % key.encode()
        with api.connect(_UPLOAD % (route, header) + _BODY.encode()):
            pass
        content = f'{{"user_id": "{_BODY}"}}'.encode()
        for body in (content, content[:-1], b"[" * 100_000):
            with contextlib.suppress(httpx.HTTPError):
                httpx.post(
                    f"http://127.0.0.1:{api.port}{route.decode()}",
                    content=body,
                    headers=_sent(key),
                    timeout=30,
                )
    httpx.post(f"http://127.0.0.1:{api.port}/v1/fail", content=_BODY, headers=_sent(key), timeout=30)
    for method in ("GET", "PUT", "DELETE"):
        with contextlib.suppress(httpx.HTTPError):
            httpx.request(
                method, f"http://127.0.0.1:{api.port}/v1/users/{key}", headers=_sent(key), timeout=30
            )
    with contextlib.suppress(httpx.HTTPError):
        api.get("/readyz")


ATTACKS: tuple[Attack, ...] = (
    Attack(
        "security",
        f"{_IDLE} idle connections",
        "1,024 open files were all taken: /healthz hung and no bundle could be loaded",
        _idle_connections,
    ),
    Attack(
        "security", "a header that never ends", "read without a bound, at quadratic cost", _endless_header
    ),
    Attack("security", "clients that stop in the middle of a request", "kept for ever", _slow_clients),
    Attack("security", "a foreign name in the Host header", "redirects to it: `//evil.example/…`", _host),
    Attack(
        "security",
        "a key that was revoked, and many wrong ones",
        "valid until a restart; 401s as fast as they come",
        _keys,
    ),
    Attack(
        "security",
        "batches of items against a rate per key",
        "59,000 items in 5 s at 10 per second: a batch counted once",
        _records,
    ),
    Attack(
        "security",
        "secrets in failing requests, then Redis and the broker killed",
        "tracebacks with local variables: API key, Redis password, bodies; 500 for aborted uploads",
        secrets_in_logs,
    ),
)
