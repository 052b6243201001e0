"""Read containers from Kubernetes' manifests, as the API server would see them: rendered by kustomize."""

import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from infra.deploy_check.containers import Container, Kind, Mount, Probe
from recsys.contracts.errors import InvalidData, Unavailable

Document = Mapping[str, Any]
Contents = Mapping[str, Mapping[str, bytes]]  # name of a ConfigMap or Secret → key → content
_ENDS = ("Job", "CronJob")
_READY_S = 120.0  # where no startup probe says how long a start may take


def rendered(overlay: Path) -> list[Document]:
    """Raises `Unavailable`: kubectl is missing. Raises `InvalidData`: kustomize refuses the overlay."""
    try:
        done = subprocess.run(
            ["kubectl", "kustomize", overlay], capture_output=True, text=True, timeout=60, check=False
        )
    except FileNotFoundError:
        raise Unavailable("kubectl, which has kustomize, is not installed") from None
    if done.returncode:
        raise InvalidData(f"{overlay}: {done.stderr.strip()}")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def read_containers(documents: Iterable[Document], secrets: Contents) -> list[Container]:
    """The containers of every Deployment, Job and CronJob; init containers come first. `secrets`: those that are
    created outside. Raises `InvalidData`: a ConfigMap, a required secret, a volume or a port is named and not there."""
    documents = list(documents)
    given = dict(secrets)
    maps: dict[str, Mapping[str, bytes]] = {}
    for document in documents:
        name = document["metadata"]["name"]
        if document["kind"] == "Secret":
            texts = document.get("stringData", {})
            given[name] = {**given.get(name, {}), **{key: text.encode() for key, text in texts.items()}}
        elif document["kind"] == "ConfigMap":
            maps[name] = {key: text.encode() for key, text in document["data"].items()}
    links = _service_links(documents)
    return [
        _Pod(document, pod, maps, given, links).container(container, is_init)
        for document in documents
        for pod in _pods(document)
        for is_init, containers in ((True, pod.get("initContainers", ())), (False, pod["containers"]))
        for container in containers
    ]


def _pods(document: Document) -> Iterator[Document]:
    if document["kind"] not in ("Deployment", "StatefulSet", *_ENDS):
        return
    spec = document["spec"]
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    yield spec["template"]["spec"]


def _service_links(documents: Iterable[Document]) -> dict[str, str]:
    """What Kubernetes tells every pod about the services of its namespace, unless the pod declines. Strimzi adds one
    for each Kafka."""
    services = {
        document["metadata"]["name"]: document["spec"]["ports"][0]["port"]
        for document in documents
        if document["kind"] == "Service"
    }
    services |= {
        f"{document['metadata']['name']}-kafka-bootstrap": 9091
        for document in documents
        if document["kind"] == "Kafka"
    }
    found: dict[str, str] = {}
    for service, port in services.items():
        prefix = service.upper().replace("-", "_")
        found |= {f"{prefix}_SERVICE_HOST": "10.96.0.1", f"{prefix}_PORT": f"tcp://10.96.0.1:{port}"}
    return found


class _Pod:
    def __init__(
        self, document: Document, pod: Document, maps: Contents, secrets: Contents, links: Mapping[str, str]
    ) -> None:
        self._where = f"{document['kind']} {document['metadata']['name']}"
        self._ends = document["kind"] in _ENDS
        self._pod = pod
        self._maps = maps
        self._secrets = secrets
        self._links = links if pod.get("enableServiceLinks", True) else {}

    def container(self, spec: Document, is_init: bool) -> Container:
        ports = {port.get("name", ""): port["containerPort"] for port in spec.get("ports", ())}
        security = self._pod["securityContext"] | spec.get("securityContext", {})
        return Container(
            name=spec["name"],
            image=spec["image"],
            arguments=tuple(spec["args"]) if "args" in spec else None,
            entrypoint=tuple(spec["command"]) if "command" in spec else None,
            environ=self._environ(spec),
            mounts=tuple(self._mount(mount) for mount in spec.get("volumeMounts", ())),
            user=security["runAsUser"],
            group=security.get("fsGroup"),
            ports=tuple(ports.values()),
            probes=tuple(self._probes(spec, ports)),
            grace_s=self._pod.get("terminationGracePeriodSeconds", 30),
            ends=self._ends or is_init,
        )

    def _environ(self, spec: Document) -> dict[str, str]:
        found = dict(self._links)
        for source in spec.get("envFrom", ()):
            content = self._named("ConfigMap", self._maps, source["configMapRef"])
            found |= {key: value.decode() for key, value in content.items()}
        for entry in spec.get("env", ()):
            if "value" in entry:
                found[entry["name"]] = entry["value"]
                continue
            reference = entry["valueFrom"]["secretKeyRef"]
            content = self._named("secret", self._secrets, reference)
            if reference["key"] in content:
                found[entry["name"]] = content[reference["key"]].decode()
            elif not reference.get("optional"):
                raise InvalidData(
                    f"{self._where}: the secret {reference['name']} has no key {reference['key']}"
                )
        return found

    def _named(
        self, kind: str, contents: Contents, reference: Document, key: str = "name"
    ) -> Mapping[str, bytes]:
        name = reference[key]
        if name not in contents and not reference.get("optional"):
            raise InvalidData(f"{self._where}: there is no {kind} {name}")
        return contents.get(name, {})

    def _mount(self, mount: Document) -> Mount:
        volumes = {volume["name"]: volume for volume in self._pod.get("volumes", ())}
        if mount["name"] not in volumes:
            raise InvalidData(f"{self._where}: a mount names the volume {mount['name']}, which is not there")
        volume = volumes[mount["name"]]
        where = {"path": mount["mountPath"], "read_only": mount.get("readOnly", False)}
        if "emptyDir" in volume:
            return Mount(kind=Kind.EMPTY, **where)
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            return Mount(kind=Kind.SHARED, name=claim, folder=mount.get("subPath", ""), **where)
        return Mount(kind=Kind.FILES, files=dict(self._files(volume)), **where | {"read_only": True})

    def _files(self, volume: Document) -> Iterator[tuple[str, bytes]]:
        if "secret" in volume:
            yield from self._items(volume["secret"], "secretName")
        elif "projected" in volume:
            for source in volume["projected"]["sources"]:
                yield from self._items(source["secret"], "name")
        else:
            raise InvalidData(f"{self._where}: the check knows no volume of this kind: {volume}")

    def _items(self, source: Document, name: str) -> Iterator[tuple[str, bytes]]:
        content = self._named("secret", self._secrets, source, name)
        items = source.get("items") or [{"key": key, "path": key} for key in content]
        for item in items:
            if item["key"] in content:
                yield item["path"], content[item["key"]]
            elif not source.get("optional"):
                raise InvalidData(f"{self._where}: the secret {source[name]} has no key {item['key']}")

    def _probes(self, spec: Document, ports: Mapping[str, int]) -> Iterator[Probe]:
        """Each with the patience of the startup probe, which holds off the others."""
        first = spec.get("startupProbe")
        patience_s = first.get("periodSeconds", 10) * first.get("failureThreshold", 3) if first else _READY_S
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe := spec.get(kind):
                yield self._probe(probe, patience_s, ports)

    def _probe(self, probe: Document, patience_s: float, ports: Mapping[str, int]) -> Probe:
        times = {"patience_s": patience_s, "timeout_s": probe.get("timeoutSeconds", 1)}
        if "exec" in probe:
            return Probe(command=tuple(probe["exec"]["command"]), **times)
        asked = probe.get("httpGet") or probe["tcpSocket"]
        port = asked["port"] if isinstance(asked["port"], int) else ports.get(asked["port"], 0)
        if not port:
            raise InvalidData(f"{self._where}: a probe names the port {asked['port']}, which is not there")
        return Probe(port=port, path=asked.get("path", ""), **times)
