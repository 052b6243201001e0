"""The page loads nothing from elsewhere, and what it brings along is what its README says."""

import re
from pathlib import Path

from serving.api.app import WEB


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
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_vendored_versions_are_those_of_the_readme_with_their_licences() -> None:
    vendor = WEB / "vendor"
    banner = (vendor / "toolkit.js").read_text(encoding="utf-8")[:300]
    readme = (vendor / "README.md").read_text(encoding="utf-8")
    licences = (vendor / "LICENSES.txt").read_text(encoding="utf-8")
    for name, version in re.findall(r"\| \[(\w+)\]\([^)]*\) \| ([\d.]+) \|", readme):
        assert f"{name} {version}" in banner
        assert f"==== {name.lower()} ====" in licences.lower()


def test_no_inline_code_that_the_security_policy_would_refuse() -> None:
    page = (WEB / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"<script(?![^>]*src=)", page)
    assert not re.findall(r"\son\w+=|style=", page)
