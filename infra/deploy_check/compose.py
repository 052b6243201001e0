"""Read containers from the compose file."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from infra.deploy_check.containers import Container, Kind, Mount, Probe
from recsys.contracts.errors import InvalidData

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0}
_LEFT_TIME_S = 10.0  # compose's own


def interpolated(text: str, environ: Mapping[str, str]) -> str:
    """`${NAME}` and `${NAME:-default}` replaced, as compose does it."""
    return _VARIABLE.sub(lambda found: environ.get(found[1]) or found[2] or "", text)


def read_services(file: Path, environ: Mapping[str, str]) -> dict[str, Mapping[str, Any]]:
    """The services as compose sees them, with `environ` as its shell."""
    content = yaml.safe_load(interpolated(file.read_text(encoding="utf-8"), environ))
    services: dict[str, Mapping[str, Any]] = content["services"]
    return services


def read_containers(file: Path, environ: Mapping[str, str]) -> list[Container]:
    """One for each service of this project's images. Raises `InvalidData`: a volume is named and not there."""
    services = read_services(file, environ)
    known = yaml.safe_load(file.read_text(encoding="utf-8"))["volumes"]
    return [
        _container(name, service, environ, file.parent, set(known))
        for name, service in services.items()
        if service["image"].startswith("recsys:")
    ]


def targets(file: Path) -> dict[str, str]:
    """Image → the stage of the Dockerfile that it is built from."""
    services = read_services(file, {}).values()
    return {service["image"]: service["build"]["target"] for service in services if "build" in service}


def _container(
    name: str, service: Mapping[str, Any], environ: Mapping[str, str], folder: Path, volumes: set[str]
) -> Container:
    probe = _probe(service["healthcheck"]) if "healthcheck" in service else None
    variables = {
        key: environ.get(key) if value is None else str(value)
        for key, value in (service.get("environment") or {}).items()
    }
    mounts = [_mount(name, text, folder, volumes) for text in service.get("volumes", ())]
    mounts += [Mount(text.split(":")[0], Kind.EMPTY) for text in service.get("tmpfs", ())]
    entrypoint = service.get("entrypoint")
    return Container(
        name=name,
        image=service["image"],
        arguments=tuple(service["command"]) if "command" in service else None,
        entrypoint=tuple(entrypoint) if entrypoint else None,
        environ={key: value for key, value in variables.items() if value is not None},
        mounts=tuple(mounts),
        user=int(service["user"]),
        ports=(probe.port,) if probe and probe.port else (),
        probes=(probe,) if probe else (),
        grace_s=_LEFT_TIME_S,
        ends=probe is None,
    )


def _mount(service: str, text: str, folder: Path, volumes: set[str]) -> Mount:
    source, path, *options = text.split(":")
    read_only = options == ["ro"]
    if not source.startswith("."):
        if source not in volumes:
            raise InvalidData(f"compose, {service}: there is no volume {source}")
        return Mount(path, Kind.SHARED, name=source, read_only=read_only)
    here = folder / source
    files = {each.name: each.read_bytes() for each in here.iterdir()} if here.is_dir() else {}
    return Mount(path, Kind.FILES, files=files, read_only=read_only)


def _probe(check: Mapping[str, Any]) -> Probe:
    _, *command = check["test"]
    patience_s = _seconds(check["interval"]) * check["retries"]
    port = re.search(r"localhost:(\d+)", command[-1])
    return Probe(
        patience_s, _seconds(check["timeout"]), port=int(port[1]) if port else 0, command=tuple(command)
    )


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)([sm]?)", text)
    if found is None:
        raise InvalidData(f"compose: {text} is not a duration such as 5s")
    return int(found[1]) * _SECONDS[found[2]]
