"""The models that devices download, and deltas to them from the models before."""

from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import load_file

from recsys.bundle import Bundle, read_manifest, versions
from recsys.contracts.errors import InvalidBundle
from recsys.deltas import delta
from recsys.ranking.edge import EDGE, GOLDEN_IN, GOLDEN_OUT
from serving.engine.model_host import ModelHost
from serving.engine.runtime import Runtime

BASES = 3  # the latest models before one, from which there are deltas
_GOLDEN = "golden.safetensors"


@dataclass(frozen=True)
class DeviceModel:
    """The model of a loaded bundle. `version` is its SHA-256."""

    bundle: Bundle
    folder: Path = field(repr=False)  # of all bundles

    @property
    def version(self) -> str:
        return self.bundle.manifest.files[EDGE]

    @cached_property
    def content(self) -> bytes:
        return self.bundle.file(EDGE).read_bytes()

    @cached_property
    def golden(self) -> dict[str, NDArray[Any]]:
        """Inputs `in/NAME` and outputs `out/NAME`, which a device compares before it uses the model."""
        arrays = load_file(self.bundle.file(_GOLDEN))
        parts = (GOLDEN_IN, GOLDEN_OUT)
        return {n.removeprefix("edge/"): a for n, a in arrays.items() if n.startswith(parts)}

    @cached_property
    def deltas(self) -> dict[str, bytes]:
        """Version of an earlier model → `delta` from it, where that is smaller than the model.

        Two models of one shape have one length, and each weight at the same place
        (`training.compression.export_edge`). Devices add bytes and know no other case.
        """
        bases = [base for base in self._bases() if len(base) == len(self.content)]
        found = {sha256(base).hexdigest(): delta(base, self.content) for base in bases}
        return {base: change for base, change in found.items() if len(change) < len(self.content)}

    def _bases(self) -> list[bytes]:
        """The newest `BASES` other models of bundles that are older than this one and undamaged."""
        older = []
        for version in versions(self.folder):
            try:
                manifest = read_manifest(self.folder / version)
            except InvalidBundle:
                continue
            if EDGE in manifest.files and manifest.created_ms < self.bundle.manifest.created_ms:
                older.append((manifest.created_ms, version, manifest.files[EDGE]))
        found: dict[str, bytes] = {}
        for _, version, checksum in sorted(older, reverse=True):
            if len(found) < BASES and checksum not in found and checksum != self.version:
                content = _content(self.folder / version / EDGE)
                if sha256(content).hexdigest() == checksum:
                    found[checksum] = content
        return list(found.values())


class DeviceModels:
    """Those of all loaded bundles. Thread-safe."""

    def __init__(self, folder: Path, host: ModelHost[Runtime]) -> None:
        self._folder = folder
        self._host = host
        self._models: dict[Path, DeviceModel] = {}  # replaced as a whole

    def find(self, version: str = "") -> DeviceModel | None:
        """The active bundle's, or by version that of any loaded one; None: there is no such model."""
        runtimes = [self._host.require(), *(self._host.runtimes if version else ())]
        for bundle in (runtime.bundle for runtime in runtimes):
            files = bundle.manifest.files
            if EDGE in files and version in ("", files[EDGE]):
                return self._of(bundle)
        return None

    def _of(self, bundle: Bundle) -> DeviceModel:
        found = self._models.get(bundle.path) or DeviceModel(bundle, self._folder)
        loaded = {runtime.bundle.path for runtime in self._host.runtimes}
        self._models = {p: m for p, m in self._models.items() if p in loaded} | {bundle.path: found}
        return found


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
