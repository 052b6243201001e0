"""The bundle: the only hand-off from training to serving.

A directory `bundles/<version>/` whose `manifest.json` lists every file with its SHA-256; `FILES` describes them. The
manifest may be signed (`manifest.sig`). A bundle appears atomically and contains Parquet, ONNX, safetensors, FAISS and
JSON, never a pickle.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidBundle
from recsys.files import atomic_write, staged_folder
from recsys.models.mapped_arrays import mapped_arrays
from recsys.operator_files import parse_json, read_bytes, read_text
from recsys.signatures import PublicKeys, is_signed, sign

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"  # optional: of the manifest, in Base64 (`recsys.signatures`)
_POINTER_BYTES = 4_096
FORMAT = 1
CURRENT = "CURRENT"  # a file in the bundles folder that names the version to serve

FILES: Mapping[str, str] = {
    "items.parquet": "item table; an item's row here is its number in every other file",
    "user_tower.onnx": "item vectors, types and gaps of a history (and profile) → user vector",
    "user_tower_kernel.safetensors": "optional: the user tower's weights as compiled code reads them",
    "item_vectors.safetensors": "`vectors` (n_items, d), `attributes` (1 + buckets, d) of fresh items, optional"
    " `linear_history` and `linear_candidates` (n_items, r); float32; `recsys.recall.item_vectors`",
    "index.faiss": "inner-product index over the item vectors, and the linear part's",
    "item_to_item.safetensors": "`neighbours` (n_items, m) int32, -1 for none; `scores` (n_items, m) float32",
    "popular.safetensors": "`rows` (n,) int32, the most popular first; `scores` (n,) float32",
    "ranker.onnx": "history and candidates with features → one output per head",
    "ranker_kernel.safetensors": "optional: the ranker's weights as compiled code reads them",
    "edge.onnx": "optional: the ranker's dense part, for devices; `recsys.ranking.edge`",
    "golden.safetensors": "inputs of all models (item numbers for item vectors) and their expected outputs",
    "taste.json": "optional: the mixed model whose log odds are the last features of the ranker",
    "uncertainty.json": "optional: how far items' clicks lie from the ranker's predictions, for exploration",
    "calibration.json": "optional: per head, the map from raw score to probability",
    "feature_histograms.json": "optional: distributions of the ranker's training features, to detect drift",
}
OPTIONAL = frozenset(
    {
        "calibration.json",
        "edge.onnx",
        "feature_histograms.json",
        "ranker_kernel.safetensors",
        "taste.json",
        "uncertainty.json",
        "user_tower_kernel.safetensors",
    }
)

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")


@dataclass(frozen=True)
class Manifest:
    """A bundle's description. `files` maps a file name to its SHA-256 in hex."""

    version: str
    created_ms: int
    feature_fingerprint: str
    feature_names: tuple[str, ...]
    data_window_ms: tuple[int, int]  # the training data's [first, last] event time
    seed: int
    metrics: Mapping[str, float | None]  # None: undefined
    models: Mapping[str, Any]  # configuration of each model, as trained
    repeats: Mapping[str, float] = field(default_factory=dict)  # learnt `RepeatPolicy`: type of event → days
    left_out: Mapping[str, int] = field(
        default_factory=dict
    )  # of the log, as suspect (`recsys.trust`), by reason
    # of suspect items, by id: how many 1,024ths of their clicks, and of their users, count online
    item_weights: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    # of models that were trained privately: epsilon, delta, the unit that it protects, and how
    privacy: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """The path of one file of the bundle. Raises `InvalidBundle`: the bundle has no such file."""
        if name not in self.manifest.files:
            raise InvalidBundle(f"{self.path.name}: has no {name}")
        return self.path / name

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """As `mapped_arrays`. Raises `InvalidBundle`: there is no such file, or it is not of this format."""
        return mapped_arrays(self.file(name))


def open_bundle(path: Path, keys: PublicKeys = (), version: str = "") -> Bundle:
    """Read the manifest and check every file against it.

    Args:
        keys: those of `RECSYS_BUNDLE_KEYS`: one of them must have signed the manifest; without any, no signature is
            needed.
        version: of the bundle, by default the folder's name.

    Raises:
        InvalidBundle: names the first file that is missing, unlisted, altered or not signed, or the version of a
            bundle that was renamed.
    """
    manifest = read_manifest(path, keys)
    if manifest.version != (version or path.name):
        raise InvalidBundle(
            f"{path}: its manifest is of the version {manifest.version}; a bundle cannot be renamed: name the folder so"
        )
    missing = FILES.keys() - OPTIONAL - manifest.files.keys()
    if missing:
        raise InvalidBundle(f"{path}: the manifest lacks {', '.join(sorted(missing))}")
    try:
        present = {p.name for p in path.iterdir()} - {MANIFEST, SIGNATURE}
        if present != manifest.files.keys():
            differing = ", ".join(sorted(present ^ manifest.files.keys()))
            raise InvalidBundle(f"{path}: files and manifest disagree on {differing}")
        for name, expected in manifest.files.items():
            if not (path / name).is_file():
                raise InvalidBundle(f"{path / name}: not a regular file; copy or train it again")
            if sha256(path / name) != expected:
                raise InvalidBundle(
                    f"{path / name}: its SHA-256 is not the manifest's; copy or train it again"
                )
    except OSError as error:
        raise InvalidBundle(f"{error.filename or path}: {error.strerror}") from error
    return Bundle(path, manifest)


def read_manifest(bundle: Path, keys: PublicKeys = ()) -> Manifest:
    """The manifest alone; `open_bundle` checks the files, too. Raises `InvalidBundle`: it is missing, damaged, of
    another format, or none of the keys has signed it."""
    path = bundle / MANIFEST
    try:
        content = read_bytes(path, InvalidBundle)
        if keys and not is_signed(keys, content, _signature(bundle)):
            raise InvalidBundle(
                f"{path}: not signed by a key of RECSYS_BUNDLE_KEYS; sign it with `recsys bundle sign`, if it is yours"
            )
    except FileNotFoundError:
        raise InvalidBundle(f"{bundle}: no {MANIFEST}; publish a bundle with `recsys train all`") from None
    raw = parse_json(content, path, dict[str, Any], InvalidBundle)
    if raw.pop("manifest_sha256", "") != _digest(raw):
        raise InvalidBundle(f"{path}: its own checksum does not match; copy or train it again")
    if raw.get("format") != FORMAT:
        raise InvalidBundle(f"{path}: format {raw.get('format')!r} is not supported, expected {FORMAT}")
    try:
        return msgspec.convert(raw, Manifest)
    except msgspec.ValidationError as error:
        raise InvalidBundle(f"{path}: {error}") from error


def sign_bundle(bundle: Bundle, key: Ed25519PrivateKey) -> None:
    """Sign the bundle's manifest, and so all its files; an earlier signature is replaced."""
    content = (bundle.path / MANIFEST).read_bytes()
    atomic_write(bundle.path / SIGNATURE, sign(key, content) + "\n")


def _signature(bundle: Path) -> str:
    try:
        return read_text(bundle / SIGNATURE, InvalidBundle)
    except FileNotFoundError:
        return ""


@contextmanager
def write_bundle(bundles: Path, manifest: Manifest, key: Ed25519PrivateKey | None = None) -> Iterator[Path]:
    """Yield a folder to write the files into; then list them with checksums, sign the list with the key, if there is
    one, and publish the folder atomically.
    Raises `InvalidBundle`: the version is not a plain file name or exists already, or a file is missing."""
    if not is_version(manifest.version):
        raise InvalidBundle(f"version {manifest.version!r}: use letters, digits, dot, dash and underscore")
    target = bundles / manifest.version
    if target.exists():
        raise InvalidBundle(f"{target} exists already; a published bundle never changes")
    with staged_folder(target) as staging:
        yield staging
        files = {p.name: sha256(p) for p in sorted(staging.iterdir())}
        missing = FILES.keys() - OPTIONAL - files.keys()
        if missing:
            raise InvalidBundle(f"{manifest.version}: not written: {', '.join(sorted(missing))}")
        content = asdict(manifest) | {"files": files}
        content = json.loads(json.dumps(content))  # tuples become lists, as a reader will see them
        content["manifest_sha256"] = _digest(content)
        (staging / MANIFEST).write_text(json.dumps(content, indent=2), encoding="utf-8")
        if key is not None:
            sign_bundle(Bundle(staging, manifest), key)


def publish(bundles: Path, version: str, keys: PublicKeys = ()) -> Bundle:
    """Verify a bundle, as `open_bundle` does, and make it the current one, atomically."""
    bundle = open_bundle(bundles / version, keys)
    atomic_write(bundles / CURRENT, version + "\n")
    return bundle


def copy_bundle(bundle: Bundle, bundles: Path, keys: PublicKeys = ()) -> int:
    """Copy a bundle, with its signature, into another folder of bundles, such as that of another host.

    Returns the bytes copied.

    A file that a bundle there already has, by checksum, is hard-linked if it is intact and the disk supports links.

    Raises:
        InvalidBundle: the version is there already, or the copy is damaged.
    """
    version = bundle.manifest.version
    if (bundles / version).exists():
        raise InvalidBundle(f"{bundles / version} exists already; a published bundle never changes")
    there = files_by_checksum(bundles)
    copied = 0
    with staged_folder(bundles / version) as staging:
        signature = [SIGNATURE] if (bundle.path / SIGNATURE).is_file() else []
        for name, checksum in {**bundle.manifest.files, **dict.fromkeys([MANIFEST, *signature], "")}.items():
            if checksum not in there or not _linked(there[checksum], checksum, staging / name):
                shutil.copyfile(bundle.path / name, staging / name)
                copied += (staging / name).stat().st_size
        open_bundle(staging, keys, version)
    return copied


def files_by_checksum(bundles: Path) -> dict[str, Path]:
    """SHA-256 → a file that should have it, from every readable manifest."""
    found = {}
    for version in versions(bundles):
        with suppress(InvalidBundle):
            for name, checksum in read_manifest(bundles / version).files.items():
                found[checksum] = bundles / version / name
    return found


def _linked(file: Path, checksum: str, target: Path) -> bool:
    """Whether the file matches its checksum and could be linked."""
    if not is_intact(file, checksum):
        return False
    try:
        os.link(file, target)
    except OSError:
        return False
    return True


def is_intact(file: Path, checksum: str) -> bool:
    """Whether the file is there and has this SHA-256."""
    try:
        return sha256(file) == checksum
    except OSError:
        return False


def current_version(bundles: Path) -> str | None:
    """The published version, None when there is none yet. Raises `InvalidBundle`: as `named_version`."""
    return named_version(bundles / CURRENT)


def named_version(pointer: Path) -> str | None:
    """The version that a file names; None without a file. Raises `InvalidBundle`: the file is damaged."""
    try:
        version = read_text(pointer, InvalidBundle, _POINTER_BYTES).strip()
    except FileNotFoundError:
        return None
    if not is_version(version):
        raise InvalidBundle(f"{pointer}: names no version; repair it with `recsys bundle publish VERSION`")
    return version


def is_version(name: str) -> bool:
    """Whether a bundle may have this name: a plain file name, which cannot leave the bundles folder.

    >>> is_version("2026-05-08.1"), is_version("../outside")
    (True, False)
    """
    return _VERSION.fullmatch(name) is not None


def versions(bundles: Path) -> list[str]:
    """Every bundle in the folder, by name."""
    return sorted(p.parent.name for p in bundles.glob(f"*/{MANIFEST}") if is_version(p.parent.name))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
