"""The tests of the compiled part again, on a build that ends at the first invalid access or undefined operation."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import recsys

ROOT = Path(recsys.__file__).parents[1]
COMPILER = shutil.which("g++")
TESTS = (
    "tests/recsys/features/test_compile.py",
    "tests/recsys/pipeline/test_compiled_history.py",
    "tests/recsys/pipeline/test_compiled_recall.py",
    "tests/recsys/ranking/test_compiled.py",
    "tests/recsys/recall/test_compiled_tower.py",
    "tests/recsys/rerank/test_reranker.py",
    "tests/recsys/store/test_compiled_cells.py",
    "tests/recsys/store/test_compiled_fold.py",
)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(COMPILER is None, reason="no g++ here")]


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the sanitized build is loaded."""
    folder = tmp_path_factory.mktemp("sanitized")
    build = [
        sys.executable,
        "setup.py",
        "-q",
        "build_ext",
        "--build-lib",
        str(folder),
        "--build-temp",
        str(folder),
    ]
    subprocess.run(build, cwd=ROOT, env={**os.environ, "SANITIZE": "address,undefined"}, check=True)
    (core,) = folder.glob("recsys/native/_core*.so")
    libraries = [library(name) for name in ("libasan.so", "libubsan.so", "libstdc++.so")]
    return {
        **os.environ,
        "NATIVE_CORE": str(core),
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python does not free everything at its end
    }


def library(name: str) -> str:
    asked = [COMPILER or "g++", f"-print-file-name={name}"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def test_the_tests_pass_without_an_invalid_access(sanitized: dict[str, str]) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.recsys.native.preloaded",
    ]
    ended = subprocess.run([*command, *TESTS], cwd=ROOT, env=sanitized, capture_output=True, text=True)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-5_000:]
    assert " skipped" not in ended.stdout.splitlines()[-1]
