"""The compose file as compose reads it: variables, mounts, what ends by itself."""

from pathlib import Path

import pytest

from infra.deploy_check.compose import interpolated, read_containers, targets
from infra.deploy_check.containers import Kind, Mount, Probe
from recsys.contracts.errors import InvalidData

FILE = """
services:
  redis: { image: "valkey/valkey:9" }
  topics:
    image: recsys:serving
    build: { target: serving }
    user: "10001"
    command: [topics, create]
    environment: { RECSYS_KAFKA_BOOTSTRAP: "${KAFKA:-kafka:9092}", RECSYS_KAFKA_USER: , RECSYS_PARTITIONS: 4 }
    volumes: ["home:/var/lib/recsys", "./secrets:/run/secrets:ro", "./none:/run/none:ro"]
    tmpfs: [/tmp, "/run/x:uid=70"]
  archive:
    image: recsys:serving
    user: "10001"
    healthcheck:
      test: [CMD, python, -c, "u.urlopen('http://localhost:9100/healthz')"]
      interval: 15s
      timeout: 3s
      retries: 4
volumes: { home: {} }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "password").write_bytes(b"p")
    (tmp_path / "compose.yaml").write_text(FILE)
    return tmp_path / "compose.yaml"


def test_services_of_this_projects_images_are_containers(file: Path) -> None:
    topics, archive = read_containers(file, {})
    assert (topics.user, topics.arguments, topics.ends) == (10001, ("topics", "create"), True)
    assert topics.environ == {"RECSYS_KAFKA_BOOTSTRAP": "kafka:9092", "RECSYS_PARTITIONS": "4"}
    assert topics.mounts == (
        Mount("/var/lib/recsys", Kind.SHARED, name="home"),
        Mount("/run/secrets", Kind.FILES, files={"password": b"p"}, read_only=True),
        Mount("/run/none", Kind.FILES, read_only=True),
        Mount("/tmp", Kind.EMPTY),
        Mount("/run/x", Kind.EMPTY),
    )
    assert (archive.ends, archive.ports, archive.arguments) == (False, (9100,), None)
    command = ("python", "-c", "u.urlopen('http://localhost:9100/healthz')")
    assert archive.probes == (Probe(60.0, 3.0, port=9100, command=command),)
    assert targets(file) == {"recsys:serving": "serving"}


def test_variables_of_the_shell_win_and_are_passed_on(file: Path) -> None:
    topics, _ = read_containers(file, {"KAFKA": "mine:9093", "RECSYS_KAFKA_USER": "u", "OTHER": "x"})
    assert topics.environ["RECSYS_KAFKA_BOOTSTRAP"] == "mine:9093"
    assert topics.environ["RECSYS_KAFKA_USER"] == "u"
    assert interpolated("${A}-${B:-b}", {"B": ""}) == "-b"


def test_a_volume_that_is_not_there_is_named(file: Path) -> None:
    file.write_text(FILE.replace("home:/var", "hom:/var"))
    with pytest.raises(InvalidData, match="topics: there is no volume hom"):
        read_containers(file, {})
