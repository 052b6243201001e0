"""A bundle is written whole or not at all, and one flipped byte anywhere is noticed."""

import json
import os
from pathlib import Path

import pytest

from recsys.bundle import (
    FILES,
    MANIFEST,
    OPTIONAL,
    Manifest,
    copy_bundle,
    current_version,
    open_bundle,
    publish,
    versions,
    write_bundle,
)
from recsys.contracts.errors import InvalidBundle

REQUIRED = sorted(FILES.keys() - OPTIONAL)


def manifest(version: str) -> Manifest:
    return Manifest(
        version=version,
        created_ms=1,
        feature_fingerprint="f",
        feature_names=("a", "b"),
        data_window_ms=(1, 2),
        seed=7,
        metrics={"auc": 0.75},
        models={"ranker": {"width": 8}},
    )


def write(bundles: Path, version: str = "v1") -> Path:
    with write_bundle(bundles, manifest(version)) as folder:
        for name in REQUIRED:
            (folder / name).write_bytes(f"content of {name}".encode())
    return bundles / version


def test_what_is_written_is_read(tmp_path: Path) -> None:
    bundle = open_bundle(write(tmp_path))
    assert bundle.manifest.feature_names == ("a", "b")
    assert bundle.manifest.data_window_ms == (1, 2)
    assert sorted(bundle.manifest.files) == REQUIRED
    assert bundle.file("index.faiss").read_bytes() == b"content of index.faiss"
    with pytest.raises(InvalidBundle, match="calibration"):
        bundle.file("calibration.json")


@pytest.mark.parametrize("name", [*REQUIRED, MANIFEST])
def test_one_flipped_bit_in_any_byte_is_noticed(tmp_path: Path, name: str) -> None:
    path = write(tmp_path) / name
    original = path.read_bytes()
    for position in range(0, len(original), max(1, len(original) // 40)):
        spoiled = bytearray(original)
        spoiled[position] ^= 1
        path.write_bytes(bytes(spoiled))
        with pytest.raises(InvalidBundle):
            open_bundle(path.parent)
    path.write_bytes(original)
    open_bundle(path.parent)


def test_missing_and_extra_files_are_noticed(tmp_path: Path) -> None:
    path = write(tmp_path)
    (path / "extra.bin").write_bytes(b"")
    with pytest.raises(InvalidBundle, match="extra.bin"):
        open_bundle(path)
    (path / "extra.bin").unlink()
    (path / "ranker.onnx").unlink()
    with pytest.raises(InvalidBundle, match="ranker.onnx"):
        open_bundle(path)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), write_bundle(tmp_path, manifest("v1")) as folder:
        (folder / "items.parquet").write_bytes(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_incomplete_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidBundle, match="ranker.onnx"), write_bundle(tmp_path, manifest("v1")) as folder:
        for name in REQUIRED:
            if name != "ranker.onnx":
                (folder / name).write_bytes(b"x")
    assert versions(tmp_path) == []


def test_a_published_bundle_never_changes(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(InvalidBundle, match="never changes"):
        write(tmp_path)


@pytest.mark.parametrize("version", ["", "../v1", "a/b", ".hidden", "x" * 65])
def test_a_version_is_a_plain_name(tmp_path: Path, version: str) -> None:
    with pytest.raises(InvalidBundle, match="version"), write_bundle(tmp_path, manifest(version)):
        raise AssertionError("the folder must not be given")


def test_publishing_verifies_first_and_keeps_the_old_one(tmp_path: Path) -> None:
    assert current_version(tmp_path) is None
    write(tmp_path, "v1")
    write(tmp_path, "v2")
    publish(tmp_path, "v1")
    (tmp_path / "v2" / "ranker.onnx").write_bytes(b"spoiled")
    with pytest.raises(InvalidBundle):
        publish(tmp_path, "v2")
    assert current_version(tmp_path) == "v1"
    assert versions(tmp_path) == ["v1", "v2"]


def test_a_copy_takes_only_the_files_that_are_not_there(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    first = open_bundle(write(here, "v1"))
    size = sum(path.stat().st_size for path in first.path.iterdir())
    assert copy_bundle(first, there) == size
    with write_bundle(here, manifest("v2")) as folder:
        for name in REQUIRED:
            (folder / name).write_bytes((first.path / name).read_bytes())
        (folder / "ranker.onnx").write_bytes(b"another ranker")
    second = open_bundle(here / "v2")
    assert copy_bundle(second, there) == len(b"another ranker") + (second.path / MANIFEST).stat().st_size
    assert open_bundle(there / "v2").manifest == second.manifest
    assert open_bundle(there / "v1").manifest == first.manifest
    with pytest.raises(InvalidBundle, match="exists already"):
        copy_bundle(second, there)
    (second.path / "ranker.onnx").write_bytes(b"damaged here..")
    with pytest.raises(InvalidBundle, match="SHA-256"):
        copy_bundle(second, tmp_path / "elsewhere")
    assert versions(tmp_path / "elsewhere") == []


def same_again(first: Path, version: str) -> Path:
    """Another version with the same files."""
    with write_bundle(first.parent, manifest(version)) as folder:
        for name in REQUIRED:
            (folder / name).write_bytes((first / name).read_bytes())
    return first.parent / version


@pytest.mark.parametrize("content", ["{}", "{", "[]", "7", '{"manifest_sha256": "x", "format": 99}'])
def test_a_bundle_with_an_unreadable_manifest_does_not_stop_a_copy(tmp_path: Path, content: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    first = write(here, "v1")
    copy_bundle(open_bundle(first), there)
    (there / "other").mkdir()
    (there / "other" / MANIFEST).write_text(content)
    second = open_bundle(same_again(first, "v2"))
    assert copy_bundle(second, there) == (second.path / MANIFEST).stat().st_size


def test_a_file_that_is_damaged_there_or_gone_is_copied_and_not_linked(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    first = write(here, "v1")
    copy_bundle(open_bundle(first), there)
    (there / "v1" / "ranker.onnx").write_bytes(b"rotten")
    (there / "v1" / "index.faiss").unlink()
    second = open_bundle(same_again(first, "v2"))
    names = (MANIFEST, "ranker.onnx", "index.faiss")
    assert copy_bundle(second, there) == sum((second.path / name).stat().st_size for name in names)
    assert open_bundle(there / "v2").manifest == second.manifest


def test_without_hard_links_every_file_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("this disk has no hard links")

    here, there = tmp_path / "here", tmp_path / "there"
    first = write(here, "v1")
    copy_bundle(open_bundle(first), there)
    monkeypatch.setattr(os, "link", refuse)
    second = open_bundle(same_again(first, "v2"))
    assert copy_bundle(second, there) == sum(path.stat().st_size for path in second.path.iterdir())


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path) / MANIFEST
    content = json.loads(path.read_text())
    content["format"] = 99
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidBundle, match="checksum"):
        open_bundle(path.parent)
