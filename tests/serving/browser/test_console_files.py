"""The page loads nothing from elsewhere, and what it brings along is what its README says."""

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from infra.setup.edge_runtime import FOLDER, VERSION, unpack
from serving.api.app import create_app
from serving.api.console_files import RUNTIME, WEB
from serving.settings import ServingSettings
from tests.serving.conftest import memory_services


def sources() -> list[Path]:
    return [p for p in WEB.rglob("*") if p.suffix in (".js", ".html", ".css") and "vendor" not in p.parts]


def test_nothing_is_loaded_from_another_host() -> None:
    for path in sources():
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r"""(?:src|href|from|import)\s*=?\s*\(?["'](https?:)?//""", text)
        assert not loaded, path


def test_imports_lead_to_files() -> None:
    for path in sources():
        for target in re.findall(r'from "(\.[^"]+)"', path.read_text(encoding="utf-8")):
            if RUNTIME.name in target:  # fetched by `make edge-runtime`
                continue
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_vendored_versions_are_those_of_the_readme_with_their_licences() -> None:
    vendor = WEB / "vendor"
    banner = (vendor / "toolkit.js").read_text(encoding="utf-8")[:300]
    readme = (vendor / "README.md").read_text(encoding="utf-8")
    licences = (vendor / "LICENSES.txt").read_text(encoding="utf-8")
    for name, version in re.findall(r"\| \[(\w+)\]\([^)]*\) \| ([\d.]+) \|", readme):
        assert f"{name} {version}" in banner
        assert f"==== {name.lower()} ====" in licences.lower()


def test_the_runtime_of_the_device_has_one_version_everywhere() -> None:
    name = f"onnxruntime-web-{VERSION}"
    assert name == RUNTIME.name == FOLDER.name
    assert {*re.findall(r"onnxruntime-web-[\d.]+\d", (WEB / "edge" / "worker.js").read_text("utf-8"))} == {
        name
    }
    vendor = WEB / "vendor"
    assert f"onnxruntime.ai) | {VERSION} | MIT |" in (vendor / "README.md").read_text(encoding="utf-8")
    assert "==== onnxruntime-web ====" in (vendor / "LICENSES.txt").read_text(encoding="utf-8")


def test_another_package_than_the_pinned_one_is_not_unpacked(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="SHA-512"):
        unpack(b"something else", tmp_path / "runtime")
    assert not (tmp_path / "runtime").exists()


def test_webassembly_compiles_in_the_worker_alone(tmp_path: Path) -> None:
    with TestClient(create_app(ServingSettings(home=tmp_path), memory_services)) as client:
        policies = {
            path: client.get(path).headers["content-security-policy"]
            for path in ("/", "/static/app.js", "/static/edge/list.js", "/static/edge/worker.js")
        }
    assert [path for path, policy in policies.items() if "wasm-unsafe-eval" in policy] == [
        "/static/edge/worker.js"
    ]
    assert all(policy.startswith("default-src 'self';") for policy in policies.values())


def test_no_inline_code_that_the_security_policy_would_refuse() -> None:
    page = (WEB / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"<script(?![^>]*src=)", page)
    assert not re.findall(r"\son\w+=|style=", page)
