"""Damaged files in the home of the API: it starts, says what is damaged, and answers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serving.conftest import Api

DAMAGED = {
    "rules": "rules.yaml",
    "experiments": "experiments.yaml",
    "users": "lake/users/users.parquet",
    "report": "lake/import-report.json",
    "summary": "work/ranker/summary.json",
    "shadow": "bundles/SHADOW",
}
NAMED = ("rules.yaml", "experiments.yaml", "users.parquet")


def _noise(path: Path) -> None:
    path.write_bytes(b"\xff[[{" * 3_000)


@pytest.mark.parametrize("damage", [Path.mkdir, lambda path: path.symlink_to(path.name), _noise])
def test_damaged_files_stop_no_start_and_give_no_500(
    make_api: Callable[..., Api], tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    home = tmp_path / "home"
    for name in DAMAGED.values():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        damage(home / name)
    api = make_api(home=home, rules=home / DAMAGED["rules"], experiments=home / DAMAGED["experiments"])
    ready = api.client.get("/readyz")
    assert ready.status_code == 200
    assert "files" in ready.json()["degraded"]
    files = ready.json()["checks"]["files"]
    assert all(name in files for name in NAMED), files
    assert "recsys_damaged_files 3.0" in api.client.get("/metrics").text
    assert api.list_of()
    for path in ("/v1/bundles", "/v1/experiments", "/v1/models", "/v1/bundles/shadow", "/v1/system"):
        assert api.client.get(path).status_code < 500, path


def test_a_damaged_pointer_keeps_the_bundle_and_says_so(make_api: Callable[..., Api], tmp_path: Path) -> None:
    api = make_api(home=tmp_path)
    pointer = tmp_path / "bundles" / "CURRENT"
    pointer.unlink()
    pointer.mkdir()
    api.services.host.poll()
    ready = api.client.get("/readyz").json()
    assert ready["bundle"] == "v1"
    assert "files" in ready["degraded"]
    assert "CURRENT" in ready["checks"]["files"]
    assert api.list_of()
    pointer.rmdir()
    pointer.write_text("v1\n")
    api.services.host.poll()
    assert "files" not in api.client.get("/readyz").json()["degraded"]
