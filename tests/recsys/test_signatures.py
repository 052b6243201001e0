"""With public keys, a bundle is loaded only as one of their owners signed it, whichever way it comes."""

import json
import stat
from pathlib import Path

import pytest

from recsys.bundle import MANIFEST, SIGNATURE, copy_bundle, open_bundle, publish, read_manifest, sign_bundle
from recsys.contracts.errors import InvalidBundle, InvalidConfig
from recsys.signatures import new_key, read_private_key, read_public_keys
from tests.recsys.test_bundle import write


class Signer:
    """A private key, and the line of its public key."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.key"
        self.line = new_key(self.path, name)
        self.key = read_private_key(self.path)


@pytest.fixture
def ours(tmp_path: Path) -> Signer:
    return Signer(tmp_path, "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Signer:
    return Signer(tmp_path, "theirs")


def keys_file(folder: Path, *signers: Signer) -> Path:
    path = folder / "bundle-keys"
    path.write_text("# who may publish\n\n" + "".join(f"{signer.line}\n" for signer in signers))
    return path


def test_unsigned_and_altered_bundles_are_refused_by_every_way_in(
    tmp_path: Path, ours: Signer, theirs: Signer
) -> None:
    bundles, keys = tmp_path / "bundles", read_public_keys(keys_file(tmp_path, ours))
    path = write(bundles)
    bundle = open_bundle(path)  # without keys no signature is needed

    def is_refused() -> None:
        for way in (
            lambda: open_bundle(path, keys),
            lambda: read_manifest(path, keys),
            lambda: publish(bundles, "v1", keys),
            lambda: copy_bundle(bundle, tmp_path / "refusing host", keys),
        ):
            with pytest.raises(InvalidBundle, match="not signed by a key of RECSYS_BUNDLE_KEYS"):
                way()

    is_refused()
    sign_bundle(bundle, theirs.key)
    is_refused()
    for damaged in (b"", b"\xff", b"!!!", b"QUJD"):
        (path / SIGNATURE).write_bytes(damaged)
        with pytest.raises(InvalidBundle):
            open_bundle(path, keys)
    sign_bundle(bundle, ours.key)
    publish(bundles, "v1", keys)
    copy_bundle(bundle, tmp_path / "other host", keys)
    assert open_bundle(tmp_path / "other host" / "v1", keys).manifest == bundle.manifest

    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(
        json.dumps(manifest)
    )  # the same, written differently: its own checksum holds
    assert open_bundle(path).manifest == bundle.manifest
    is_refused()


def test_keys_are_changed_by_accepting_both_for_a_while(tmp_path: Path, ours: Signer, theirs: Signer) -> None:
    old, new = write(tmp_path / "bundles", "old"), write(tmp_path / "bundles", "new")
    sign_bundle(open_bundle(old), ours.key)
    sign_bundle(open_bundle(new), theirs.key)
    both = read_public_keys(keys_file(tmp_path, ours, theirs))
    assert [open_bundle(path, both).manifest.version for path in (old, new)] == ["old", "new"]
    with pytest.raises(InvalidBundle):
        open_bundle(old, read_public_keys(keys_file(tmp_path, theirs)))


def test_key_files_are_private_and_read_in_words(tmp_path: Path, ours: Signer) -> None:
    assert stat.S_IMODE(ours.path.stat().st_mode) == 0o600
    with pytest.raises(InvalidConfig, match="never replaced"):
        new_key(ours.path, "again")
    for content in ("", "# none\n", "ssh-ed25519 AAAA\n", ours.path.read_text()):
        (tmp_path / "keys").write_text(content)
        with pytest.raises(InvalidConfig, match="recsys bundle keygen"):
            read_public_keys(tmp_path / "keys")
    with pytest.raises(InvalidConfig, match="recsys bundle keygen"):
        read_private_key(keys_file(tmp_path, ours))
    assert read_public_keys(None) == ()


def test_a_renamed_bundle_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path).rename(tmp_path / "v2")
    with pytest.raises(InvalidBundle, match="of the version v1"):
        open_bundle(path)


def test_what_is_no_regular_file_of_a_bundle_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    for name in ("index.faiss", SIGNATURE):
        (path / name).unlink(missing_ok=True)
        (path / name).symlink_to("/dev/zero")
        with pytest.raises(InvalidBundle, match="not a regular file"):
            open_bundle(path, read_public_keys(_one_key(tmp_path)) if name == SIGNATURE else ())


def _one_key(folder: Path) -> Path:
    return keys_file(folder, Signer(folder, "one"))
