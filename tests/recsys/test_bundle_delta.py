"""A host makes the whole bundle of a delta and its base, or nothing: no damage on the way and none of the base goes
through, and what is refused says what to do."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZipFile

import numpy as np
import pytest

from recsys import bundle_delta
from recsys.bundle import MANIFEST, SIGNATURE, Bundle, copy_bundle, open_bundle, sign_bundle, write_bundle
from recsys.bundle_delta import apply_delta, write_delta
from recsys.contracts.errors import InvalidBundle
from recsys.signatures import new_key, read_private_key, read_public_keys
from tests.recsys.test_bundle import REQUIRED, manifest

WEIGHTS = np.random.default_rng(0).normal(size=4_000).astype(np.float32)
MOVED = WEIGHTS + np.float32(1e-3)


def written(bundles: Path, version: str, changed: Mapping[str, bytes]) -> Bundle:
    with write_bundle(bundles, replace(manifest(version), created_ms=len(version))) as folder:
        for name in REQUIRED:
            (folder / name).write_bytes(changed.get(name, f"content of {name}".encode()))
    return open_bundle(bundles / version)


@pytest.fixture
def base(tmp_path: Path) -> Bundle:
    files = {"ranker.onnx": WEIGHTS.tobytes(), "index.faiss": bytes(range(100)), "popular.safetensors": b""}
    return written(tmp_path / "here", "v1", files)


@pytest.fixture
def later(tmp_path: Path) -> Bundle:
    """One file has moved a little, one is another, one is no longer empty, one is now, the others are the same."""
    files = {
        "ranker.onnx": MOVED.tobytes(),
        "index.faiss": np.random.default_rng(1).bytes(100),
        "popular.safetensors": b"no longer empty",
        "golden.safetensors": b"",
    }
    return written(tmp_path / "here", "v2", files)


@pytest.fixture
def there(tmp_path: Path, base: Bundle) -> Path:
    """A host's folder, which has the base."""
    copy_bundle(base, tmp_path / "there")
    return tmp_path / "there"


@pytest.fixture
def file(tmp_path: Path, base: Bundle, later: Bundle) -> Path:
    write_delta(base, later, tmp_path / "update.delta")
    return tmp_path / "update.delta"


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(file: Path, there: Path, match: str) -> None:
    before = content_of(there)
    with pytest.raises(InvalidBundle, match=match):
        apply_delta(file, there)
    assert content_of(there) == before
    assert [path.name for path in there.iterdir()] == ["v1"]


def test_a_host_makes_the_same_bundle(tmp_path: Path, base: Bundle, later: Bundle, there: Path) -> None:
    delta = write_delta(base, later, tmp_path / "update.delta")
    assert delta.bytes == (tmp_path / "update.delta").stat().st_size
    assert delta.changes.keys() == {
        "ranker.onnx",
        "index.faiss",
        "popular.safetensors",
    }  # the base has an empty file
    assert delta.changes["ranker.onnx"].base == base.manifest.files["ranker.onnx"]
    assert not delta.changes["index.faiss"].base  # a difference would be no smaller
    made = apply_delta(tmp_path / "update.delta", there)
    assert made == open_bundle(there / "v2")
    assert content_of(made.path) == content_of(later.path)
    unchanged = "item_vectors.safetensors"
    assert (made.path / unchanged).samefile(there / "v1" / unchanged)


def test_a_delta_is_smaller_than_the_changed_files(
    base: Bundle, later: Bundle, there: Path, file: Path
) -> None:
    copied = copy_bundle(later, there)
    assert file.stat().st_size < 0.7 * copied


def test_long_arrays_are_written_in_planes(tmp_path: Path, base: Bundle) -> None:
    rng = np.random.default_rng(2)
    weights = rng.normal(size=100_000).astype(np.float32)
    moved = weights + rng.normal(0, 1e-3, weights.size).astype(np.float32)
    first, second = (
        written(tmp_path / "nights", version, {"index.faiss": array.tobytes()})
        for version, array in (("n1", weights), ("n2", moved))
    )
    delta = write_delta(first, second, tmp_path / "night.delta")
    assert delta.changes["index.faiss"].width == 4
    assert delta.bytes < 0.75 * moved.nbytes
    copy_bundle(first, tmp_path / "host")
    assert content_of(apply_delta(tmp_path / "night.delta", tmp_path / "host").path) == content_of(
        second.path
    )


def test_the_same_bundles_give_the_same_delta(
    tmp_path: Path, base: Bundle, later: Bundle, file: Path
) -> None:
    write_delta(base, later, tmp_path / "again.delta")
    assert (tmp_path / "again.delta").read_bytes() == file.read_bytes()


def test_applying_twice_changes_nothing(there: Path, file: Path) -> None:
    first = apply_delta(file, there)
    before = content_of(there)
    assert apply_delta(file, there) == first
    assert content_of(there) == before


@pytest.mark.parametrize("chunk", [1, 7, 4_096])
def test_files_longer_than_what_is_read_at_a_time(
    base: Bundle, tmp_path: Path, there: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(bundle_delta, "_CHUNK", chunk)
    short, long = bytes(range(30)), bytes(range(1, 90))
    later = written(tmp_path / "here", "v2", {"ranker.onnx": short, "index.faiss": long})
    write_delta(base, later, tmp_path / "update.delta")
    assert content_of(apply_delta(tmp_path / "update.delta", there).path) == content_of(later.path)


def test_a_truncated_delta_is_refused(there: Path, file: Path) -> None:
    whole = file.read_bytes()
    for length in [*range(0, len(whole), len(whole) // 30), len(whole) - 1]:
        file.write_bytes(whole[:length])
        refused(file, there, "carry it here again")


def test_a_flipped_bit_is_refused_or_harmless(there: Path, later: Bundle, file: Path) -> None:
    """Harmless: in a field of the archive that nobody reads, such as a date."""
    whole, before, harmless = file.read_bytes(), content_of(there), 0
    positions = [*range(0, len(whole), len(whole) // 60), *range(len(whole) - 1_200, len(whole), 11)]
    for position in positions:
        spoiled = bytearray(whole)
        spoiled[position] ^= 1 << position % 8
        file.write_bytes(bytes(spoiled))
        try:
            made = apply_delta(file, there)
        except InvalidBundle:
            assert content_of(there) == before
            continue
        harmless += 1
        assert content_of(made.path) == content_of(later.path)
        for path in made.path.iterdir():
            path.unlink()
        made.path.rmdir()
    assert harmless < len(positions) / 4


@pytest.mark.parametrize("kind", [ZIP_BZIP2, ZIP_LZMA])
@pytest.mark.parametrize("name", ["delta.json", MANIFEST, "ranker.onnx"])
def test_other_compression_is_not_unpacked(
    there: Path, file: Path, tmp_path: Path, name: str, kind: int
) -> None:
    with ZipFile(file) as archive, ZipFile(tmp_path / "forged.delta", "w", ZIP_DEFLATED) as forged:
        for entry in archive.infolist():
            content = archive.read(entry) if entry.filename != name else bytes(1 << 20)
            forged.writestr(entry.filename, content, kind if entry.filename == name else ZIP_DEFLATED)
    refused(tmp_path / "forged.delta", there, "not deflated")


def test_what_would_fill_the_disk_is_refused(
    there: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10_000))
    refused(file, there, "make room there")


def test_another_base_is_refused(tmp_path: Path, file: Path) -> None:
    copy_bundle(written(tmp_path / "other", "v1", {"ranker.onnx": b"of another shop"}), tmp_path / "foreign")
    refused(file, tmp_path / "foreign", "no undamaged .* of bundle v1; copy the whole bundle instead")


@pytest.mark.parametrize("name", ["ranker.onnx", "item_vectors.safetensors"])  # changed by the delta, and not
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"rotten")])
def test_a_damaged_base_is_refused(
    there: Path, file: Path, name: str, damage: Callable[[Path], object]
) -> None:
    damage(there / "v1" / name)
    refused(file, there, f"no undamaged {name} of bundle v1; copy the whole bundle instead")


def test_a_base_of_another_name_will_do(tmp_path: Path, base: Bundle, file: Path, later: Bundle) -> None:
    """What counts is the content: here two bundles have parts of it."""
    files = {name: (base.path / name).read_bytes() for name in REQUIRED}
    host = tmp_path / "host"
    written(host, "older", files | {"ranker.onnx": b"another one"})
    written(host, "newer", {"ranker.onnx": files["ranker.onnx"]})
    assert content_of(apply_delta(file, host).path) == content_of(later.path)


def rewritten(file: Path, entry: str, change: Callable[[bytes], bytes]) -> None:
    """The archive with another content of one entry, as a forger would write it."""
    with ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries[entry] = change(entries.get(entry, b""))
    with ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def header(**changes: object) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps(json.loads(content) | changes).encode()


@pytest.mark.parametrize(
    ("entry", "change", "match"),
    [
        ("delta.json", lambda content: b"{", "Expecting"),
        ("delta.json", lambda content: b"[" * 100_000, "nested too deeply"),
        ("delta.json", header(format=2), "format 2"),
        ("delta.json", header(version="../here/v2"), "version .../here/v2"),  # which is there
        ("delta.json", header(version="v3"), "v2"),  # the manifest's is another
        ("delta.json", header(more=1), "more"),
        ("delta.json", header(changes={"ranker.onnx": {"base": "", "width": 0}}), "width"),
        ("delta.json", header(changes={}), "no undamaged"),
        (MANIFEST, lambda content: content.replace(b"v2", b"v3"), "checksum"),
        (MANIFEST, lambda content: b"", "Expecting"),
        ("ranker.onnx", lambda content: content[:-4], "SHA-256"),
        ("ranker.onnx", lambda content: b"", "SHA-256"),
        ("ranker.onnx", lambda content: content + bytes(100), "SHA-256"),
    ],
)
def test_a_forged_delta_is_refused(
    there: Path, file: Path, entry: str, change: Callable[[bytes], bytes], match: str
) -> None:
    rewritten(file, entry, change)
    refused(file, there, match)


def test_no_file_is_written_outside(tmp_path: Path, base: Bundle, later: Bundle, there: Path) -> None:
    """A manifest whose own checksum holds names a path."""
    with write_bundle(tmp_path / "forged", manifest("v2")) as folder:
        for name in REQUIRED:
            (folder / name).write_bytes(b"x")
        (folder / "plain").write_bytes(b"outside")
    forged = open_bundle(tmp_path / "forged" / "v2")
    file = tmp_path / "update.delta"
    write_delta(base, forged, file)
    content = json.loads((forged.path / MANIFEST).read_text())
    content["files"] = {"../outside" if n == "plain" else n: sha for n, sha in content["files"].items()}
    del content["manifest_sha256"]
    from recsys.bundle import _digest

    content["manifest_sha256"] = _digest(content)
    rewritten(file, MANIFEST, lambda _: json.dumps(content).encode())
    refused(file, there, "not a plain file name")
    assert not (there / "outside").exists()


@pytest.mark.parametrize("what", ["missing", "a folder", "empty", "text"])
def test_what_is_no_delta_is_refused(tmp_path: Path, there: Path, what: str) -> None:
    file = tmp_path / "update.delta"
    if what == "a folder":
        file.mkdir()
    elif what != "missing":
        file.write_text("" if what == "empty" else "text" * 100)
    refused(file, there, "update.delta")


def test_only_a_signed_delta_is_applied(tmp_path: Path, base: Bundle, later: Bundle, there: Path) -> None:
    keys_file, file = tmp_path / "keys", tmp_path / "update.delta"
    keys_file.write_text(new_key(tmp_path / "key", "ours") + "\n")
    keys = read_public_keys(keys_file)
    write_delta(base, later, file)
    with pytest.raises(InvalidBundle, match="not signed"):
        apply_delta(file, there, keys)
    assert [path.name for path in there.iterdir()] == ["v1"]
    sign_bundle(later, read_private_key(tmp_path / "key"))
    write_delta(base, later, file)
    made = apply_delta(file, there, keys)  # the base's signature does not matter, its content does
    assert (made.path / SIGNATURE).read_bytes() == (later.path / SIGNATURE).read_bytes()


def test_another_bundle_of_the_version_stays(there: Path, file: Path) -> None:
    other = written(there, "v2", {"ranker.onnx": b"another one"})
    before = content_of(there)
    with pytest.raises(InvalidBundle, match="another bundle of this version"):
        apply_delta(file, there)
    assert content_of(there) == before
    assert open_bundle(other.path) == other


def test_an_interrupted_host_has_nothing_and_repeats(
    there: Path, file: Path, later: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, done = bundle_delta._place, list[object]()

    def killed(*given: object) -> None:
        place(*given)  # type: ignore[arg-type]
        done.append(given)
        if len(done) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(bundle_delta, "_place", killed)
        apply_delta(file, there)
    assert [path.name for path in there.iterdir()] == ["v1"]
    assert content_of(apply_delta(file, there).path) == content_of(later.path)


def test_a_disk_without_links_gets_copies(
    there: Path, file: Path, later: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("this disk has no hard links")

    monkeypatch.setattr(os, "link", refuse)
    assert content_of(apply_delta(file, there).path) == content_of(later.path)


def test_an_interrupted_writer_leaves_no_file(
    tmp_path: Path, base: Bundle, later: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle_delta, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        write_delta(base, later, tmp_path / "out" / "update.delta")
    assert not list((tmp_path / "out").iterdir())
