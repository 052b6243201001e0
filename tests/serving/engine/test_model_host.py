"""The model host: a good bundle takes over, a bad one changes nothing."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from recsys.bundle import FILES, Bundle, Manifest, current_version, publish, write_bundle
from recsys.contracts.errors import FingerprintMismatch, InvalidBundle
from recsys.signatures import PublicKeys
from serving.engine.model_host import ModelHost
from serving.telemetry import Telemetry
from tests.serving.waiting import eventually

FINGERPRINT = "f" * 64


@dataclass(frozen=True)
class Loaded:
    bundle: Bundle


def write(bundles: Path, version: str, fingerprint: str = FINGERPRINT) -> None:
    manifest = Manifest(version, 1, fingerprint, ("a",), (0, 1), 0, {}, {})
    with write_bundle(bundles, manifest) as folder:
        for name in FILES:
            (folder / name).write_text(f"{name} of {version}")


released: list[Loaded] = []


def make_host(
    bundles: Path,
    load: Callable[[Bundle], Loaded] = Loaded,
    store_fingerprint: str | None = FINGERPRINT,
) -> ModelHost[Loaded]:
    return ModelHost(bundles, load, released.append, FINGERPRINT, lambda: store_fingerprint, Telemetry())


def test_the_published_bundle_is_loaded_and_the_next_one_follows(tmp_path: Path) -> None:
    write(tmp_path, "v1")
    publish(tmp_path, "v1")
    host = make_host(tmp_path)
    host.follow(0.01)
    assert host.active == "v1"
    write(tmp_path, "v2")
    publish(tmp_path, "v2")
    eventually(lambda: host.active == "v2")
    host.close()


def test_a_request_keeps_the_runtime_it_began_with(tmp_path: Path) -> None:
    write(tmp_path, "v1")
    write(tmp_path, "v2")
    host = make_host(tmp_path)
    host.activate("v1")
    mine = host.runtime()
    host.activate("v2")
    assert mine is not None
    assert mine.bundle.manifest.version == "v1"
    assert host.active == "v2"
    assert released[-1] is mine


@pytest.mark.parametrize("name", sorted(FILES))
def test_one_flipped_byte_in_any_file_is_refused_and_the_old_bundle_stays(tmp_path: Path, name: str) -> None:
    write(tmp_path, "v1")
    write(tmp_path, "v2")
    path = tmp_path / "v2" / name
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    host = make_host(tmp_path)
    host.activate("v1")
    with pytest.raises(InvalidBundle, match=name):
        host.activate("v2")
    assert host.active == "v1"
    assert name in host.refused["v2"]


def test_other_feature_definitions_are_refused_and_the_old_bundle_stays(tmp_path: Path) -> None:
    write(tmp_path, "v1")
    write(tmp_path, "v2", fingerprint="0" * 64)
    host = make_host(tmp_path)
    host.activate("v1")
    with pytest.raises(FingerprintMismatch, match="this code"):
        host.activate("v2")
    assert host.active == "v1"


def test_a_store_with_other_definitions_is_refused_too_but_an_empty_or_absent_one_is_not(
    tmp_path: Path,
) -> None:
    write(tmp_path, "v1")
    with pytest.raises(FingerprintMismatch, match="the feature store"):
        make_host(tmp_path, store_fingerprint="0" * 64).activate("v1")
    host = make_host(tmp_path, store_fingerprint=None)
    host.activate("v1")
    assert host.active == "v1"


def test_a_librarys_own_error_while_loading_is_an_invalid_bundle(tmp_path: Path) -> None:
    def load(bundle: Bundle) -> Loaded:
        raise OSError("not a FAISS index")

    write(tmp_path, "v1")
    host = make_host(tmp_path, load)
    with pytest.raises(InvalidBundle, match="not a FAISS index"):
        host.activate("v1")
    assert host.runtime() is None


def test_a_refused_bundle_is_not_tried_again_until_somebody_asks(tmp_path: Path) -> None:
    attempts: list[str] = []

    def load(bundle: Bundle) -> Loaded:
        attempts.append(bundle.manifest.version)
        if len(attempts) == 1:
            raise InvalidBundle("bad day")
        return Loaded(bundle)

    write(tmp_path, "v1")
    publish(tmp_path, "v1")
    host = make_host(tmp_path, load)
    host.follow(0.001)
    write(tmp_path, "v2")
    publish(tmp_path, "v2")
    eventually(lambda: host.active == "v2")
    assert attempts == ["v1", "v2"]
    host.activate("v1")
    assert host.active == "v1"
    assert host.refused == {}
    host.close()


def test_publishing_through_the_host_changes_current_only_when_the_bundle_is_good(tmp_path: Path) -> None:
    write(tmp_path, "v1")
    write(tmp_path, "v2", fingerprint="0" * 64)
    host = make_host(tmp_path)
    host.publish("v1")
    assert current_version(tmp_path) == "v1"
    with pytest.raises(FingerprintMismatch):
        host.publish("v2")
    assert current_version(tmp_path) == "v1"


def test_a_poll_while_a_bundle_is_published_does_not_go_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "v1")
    write(tmp_path, "v2")
    host = make_host(tmp_path)
    host.publish("v1")
    poll = threading.Thread(target=host.poll)
    during: list[str | None] = []

    def slowly(bundles: Path, version: str, keys: PublicKeys) -> Bundle:
        poll.start()
        poll.join(0.1)
        during.append(host.active)
        return publish(bundles, version, keys)

    monkeypatch.setattr("serving.engine.model_host.publish", slowly)
    host.publish("v2")
    poll.join()
    assert [*during, host.active] == ["v2", "v2"]


def test_a_bundle_that_was_refused_is_tried_again_when_it_is_published_again(tmp_path: Path) -> None:
    write(tmp_path, "v1")
    write(tmp_path, "v2")
    publish(tmp_path, "v2")
    path = tmp_path / "v2" / "ranker.onnx"
    good = path.read_bytes()
    path.write_bytes(b"altered")
    host = make_host(tmp_path)
    host.poll()
    path.write_bytes(good)
    host.poll()
    assert "v2" in host.refused
    publish(tmp_path, "v2")  # as another worker does when an admin activates it there
    host.poll()
    assert host.active == "v2"


def test_an_empty_folder_is_no_error(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    host.follow(10)
    assert host.runtime() is None
    assert host.active is None
    host.close()
