"""nginx as the deployment files configure it, in front of a server that counts: what is cached, for whom, how long."""

import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
import yaml

from infra.local.process import free_port
from serving.api.cacheable import RENEWED

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")
CONFIG = Path(__file__).parents[3] / "infra" / "deploy" / "nginx" / "nginx.conf"
SIMILAR, POPULAR, LISTS = "/v1/items/a%2Fb/similar?k=3", "/v1/popular", "/v1/recommendations"


@dataclass
class Upstream:
    """Two addresses of one server, as compose has two API processes."""

    asked: Counter[str] = field(default_factory=Counter)
    lifetime: str = RENEWED
    away: bool = False

    def __post_init__(self) -> None:
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if upstream.away:
                    self.close_connection = True
                    return
                upstream.asked[self.path] += 1
                kept = self.command == "GET" and not self.headers.get("x-api-key")
                content = f"{self.path} {upstream.asked[self.path]}".encode()
                self.send_response(200)
                self.send_header("content-length", str(len(content)))
                self.send_header("cache-control", f"public, {upstream.lifetime}" if kept else "no-store")
                self.send_header("etag", f'"v1-{upstream.asked[self.path]}"')
                self.send_header("x-request-id", "first")
                self.end_headers()
                self.wfile.write(content)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    yield made
    made.stop()


@pytest.fixture
def node(upstream: Upstream, tmp_path: Path) -> Iterator[httpx.Client]:
    if NGINX is None:
        pytest.skip("nginx is missing: apt-get install nginx-light")
    port, text = free_port(), CONFIG.read_text(encoding="utf-8")
    text = re.sub(r"server api-\d:8000", f"server 127.0.0.1:{upstream.server.server_port}", text)
    text = text.replace("listen 8080", f"listen 127.0.0.1:{port}").replace("/tmp/", f"{tmp_path}/")
    text = re.sub(r"worker_processes \w+", "worker_processes 1", text)
    config = tmp_path / "nginx.conf"
    config.write_text(text, encoding="utf-8")
    command = [
        str(NGINX),
        "-c",
        str(config),
        "-p",
        str(tmp_path),
        "-e",
        f"{tmp_path}/error.log",
        "-g",
        "daemon off; user root;",
    ]
    process = subprocess.Popen(command)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        while True:
            assert process.poll() is None, (tmp_path / "error.log").read_text()
            try:
                client.get("/healthz")
                break
            except httpx.ConnectError:
                time.sleep(0.02)
        yield client
    process.terminate()
    process.wait()


def test_kubernetes_has_the_same_configuration_with_the_service_as_its_upstream() -> None:
    document = yaml.safe_load((CONFIG.parents[1] / "k8s" / "components" / "edge" / "config.yaml").read_text())
    compose, kubernetes = (
        re.sub(r"upstream api {.*?}", "", text[text.index("worker_processes") :], flags=re.DOTALL)
        for text in (CONFIG.read_text(encoding="utf-8"), document["data"]["nginx.conf"])
    )
    assert kubernetes == compose


@pytest.mark.parametrize("path", [SIMILAR, POPULAR, "/v1/edge/manifest", f"/v1/edge/model/{'0' * 64}"])
def test_what_is_the_same_for_everybody_is_asked_for_once(
    node: httpx.Client, upstream: Upstream, path: str
) -> None:
    first, second = node.get(path), node.get(path)
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("MISS", "HIT")
    assert first.content == second.content
    assert "x-request-id" not in second.headers
    again = node.get(path, headers={"if-none-match": second.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert upstream.asked[path] == 1


def test_personal_lists_and_callers_with_keys_reach_the_api(node: httpx.Client, upstream: Upstream) -> None:
    for _ in range(2):
        assert "x-cache" not in node.post(LISTS, json={"user_id": "u", "edge": True}).headers
        assert node.get(SIMILAR, headers={"x-api-key": "rk"}).headers["x-cache"] == "BYPASS"
        assert "x-cache" not in node.get("/v1/users/u").headers
    assert [upstream.asked[path] for path in (LISTS, SIMILAR, "/v1/users/u")] == [2, 2, 2]
    assert node.get(SIMILAR).headers["x-cache"] == "MISS"  # nothing was kept of the answers to keys
    assert node.get(SIMILAR, headers={"authorization": "Bearer x"}).headers["x-cache"] == "BYPASS"


def test_an_old_answer_is_shown_while_the_new_one_is_fetched_and_while_no_process_answers(
    node: httpx.Client, upstream: Upstream
) -> None:
    upstream.lifetime = "max-age=1, stale-while-revalidate=600"
    first = node.get(POPULAR)
    time.sleep(1.2)
    assert node.get(POPULAR).content == first.content  # at once; the new one is fetched behind it
    waited = time.monotonic()
    while node.get(POPULAR).content == first.content:
        assert time.monotonic() < waited + 10
        time.sleep(0.02)
    assert upstream.asked[POPULAR] == 2
    time.sleep(1.2)
    upstream.away = True
    assert node.get(POPULAR).text == f"{POPULAR} 2"
    assert node.get("/v1/users/u").status_code == 502
