"""The pool of the model host: bundles beside the one that answers, within a limit of memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from recsys.bundle import FILES, Bundle, Manifest, publish, write_bundle
from recsys.contracts.errors import InvalidBundle, InvalidConfig
from serving.engine.model_host import ModelHost
from serving.telemetry import Telemetry
from tests.serving.waiting import eventually

FINGERPRINT = "f" * 64
SIZES = {"v1": 40, "v2": 40, "v3": 30, "huge": 500}
LIMIT = 100


@dataclass(frozen=True)
class Loaded:
    bundle: Bundle

    @property
    def version(self) -> str:
        return self.bundle.manifest.version


class Pool:
    """A host of bundles whose weights are `SIZES`, and what it has released."""

    def __init__(self, bundles: Path) -> None:
        self.bundles = bundles
        self.released: list[str] = []
        self.host = ModelHost(
            bundles,
            Loaded,
            lambda loaded: self.released.append(loaded.version),
            FINGERPRINT,
            lambda: FINGERPRINT,
            Telemetry(),
            weigh=lambda bundle: SIZES[bundle.manifest.version],
            max_bytes=LIMIT,
        )
        for version in SIZES:
            with write_bundle(
                bundles, Manifest(version, 1, FINGERPRINT, ("a",), (0, 1), 0, {}, {})
            ) as folder:
                for name in FILES:
                    (folder / name).write_text(f"{name} of {version}")

    def loaded(self) -> set[str]:
        return set(self.host.loaded)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    pool = Pool(tmp_path)
    yield pool
    pool.host.close()


def test_the_bundle_before_stays_for_a_quick_way_back(pool: Pool) -> None:
    pool.host.activate("v1")
    before = pool.host.runtime()
    pool.host.activate("v2")
    assert pool.loaded() == {"v1", "v2"}
    pool.host.activate("v1")
    assert pool.host.runtime() is before  # not loaded again


def test_above_the_limit_the_least_recently_used_leaves(pool: Pool) -> None:
    for version in ("v1", "v2"):
        pool.host.activate(version)
    pool.host.load("v3")
    assert pool.released == ["v1"]
    assert pool.loaded() == {"v2", "v3"}


def test_to_be_asked_for_is_to_be_used(pool: Pool) -> None:
    pool.host.load("v1")
    pool.host.load("v3")
    assert pool.host.runtime("v1") is not None
    pool.host.activate("v2")
    assert pool.loaded() == {"v1", "v2"}
    assert pool.released == ["v3"]


def test_a_version_that_is_not_loaded_is_none_and_loads_nothing(pool: Pool) -> None:
    pool.host.activate("v1")
    assert pool.host.runtime("v2") is None
    assert pool.loaded() == {"v1"}


def test_what_is_wanted_is_loaded_soon_kept_and_no_longer_than_wanted(pool: Pool) -> None:
    wanted: set[str] = {"v2"}
    pool.host.wanted.append(lambda: wanted)
    publish(pool.bundles, "v1")
    pool.host.follow(0.01)
    assert pool.loaded() == {"v1", "v2"}
    with pytest.raises(InvalidConfig, match="in use"):
        pool.host.unload("v2")
    with pytest.raises(InvalidConfig, match="in use"):
        pool.host.unload("v1")
    wanted.clear()
    wanted.add("v3")  # 40 + 40 + 30 is too much: v2 goes
    eventually(lambda: pool.loaded() == {"v1", "v3"})


def test_a_wanted_bundle_that_does_not_fit_is_refused_and_nothing_else_changes(pool: Pool) -> None:
    pool.host.activate("v1")
    pool.host.wanted.append(lambda: {"huge"})
    pool.host.poll()
    assert pool.loaded() == {"v1"}
    assert "RECSYS_BUNDLE_BYTES" in pool.host.refused["huge"]


def test_the_published_bundle_answers_even_when_it_is_larger_than_the_limit(pool: Pool) -> None:
    pool.host.activate("v1")
    pool.host.activate("huge")
    assert pool.host.active == "huge"
    assert pool.loaded() == {"huge"}


def test_what_did_not_fit_beside_the_others_answers_once_it_is_published(pool: Pool) -> None:
    publish(pool.bundles, "v1")
    pool.host.wanted.append(lambda: {"huge"})
    pool.host.poll()
    assert "huge" in pool.host.refused
    publish(pool.bundles, "huge")
    pool.host.poll()
    assert pool.host.active == "huge"
    assert pool.host.refused == {}


@pytest.mark.parametrize("name", ["../outside/v1", "/etc", "", ".v1-aside", "v1/", "v1\n"])
def test_a_version_is_a_plain_name(pool: Pool, name: str) -> None:
    with pytest.raises(InvalidBundle, match="not the name of a bundle"):
        pool.host.load(name)


def test_a_broken_wanted_bundle_changes_nothing_and_is_tried_again_when_asked_for_anew(pool: Pool) -> None:
    path = pool.bundles / "v2" / "ranker.onnx"
    good = path.read_text()
    path.write_text("altered")
    wanted = {"v2"}
    pool.host.activate("v1")
    pool.host.wanted.append(lambda: wanted)
    pool.host.poll()
    assert "ranker.onnx" in pool.host.refused["v2"]
    assert pool.host.active == "v1"
    path.write_text(good)
    pool.host.poll()
    assert pool.host.runtime("v2") is None
    wanted.add("v3")
    pool.host.poll()
    assert pool.host.runtime("v2") is not None


def test_unloading_frees_it(pool: Pool) -> None:
    pool.host.activate("v1")
    pool.host.load("v2")
    pool.host.unload("v2")
    pool.host.unload("v2")
    assert pool.released == ["v2"]
    assert pool.loaded() == {"v1"}
