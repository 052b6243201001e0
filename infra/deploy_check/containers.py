"""What a container engine is told about a container, wherever it was written down."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """Where the content of a mount comes from."""

    EMPTY = "empty"  # a new folder, of this container alone
    SHARED = "shared"  # a folder that containers share by its name, and that outlives them
    FILES = "files"  # given files: secrets, configuration


@dataclass(frozen=True)
class Mount:
    """`name`: of a shared folder. `folder`: the part of it that is mounted. `files`: contents by name."""

    path: str
    kind: Kind
    name: str = ""
    folder: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    read_only: bool = False


@dataclass(frozen=True)
class Probe:
    """Asks whether a container is ready: a GET of `path` on `port`, a TCP connection to `port`, or a command that ends
    with 0."""

    patience_s: float
    timeout_s: float = 1.0
    port: int = 0
    path: str = ""
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Container:
    """`arguments`: follow the entry point; None: those of the image. `group`: of the files in its volumes."""

    name: str
    image: str
    arguments: tuple[str, ...] | None
    environ: Mapping[str, str]
    mounts: tuple[Mount, ...]
    user: int
    entrypoint: tuple[str, ...] | None = None
    group: int | None = None
    ports: tuple[int, ...] = ()
    probes: tuple[Probe, ...] = ()
    grace_s: float = 30.0
    ends: bool = False  # by itself, with 0
