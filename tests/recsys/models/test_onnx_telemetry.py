"""onnxruntime sends nothing home, whichever of our modules imports it first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_IMPORTS = """
import importlib, os, sys
importlib.import_module(sys.argv[1])
import onnxruntime
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
"""


@pytest.mark.parametrize(
    "module", ["recsys.models.onnx_session", "recsys.ranking.scorer", "training.compression.quantize"]
)
def test_importing_it_leaves_no_id_of_the_machine(module: str, tmp_path: Path) -> None:
    environ = {
        name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")
    }
    environ |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", _IMPORTS, module], env=environ, check=True)
    assert not list(tmp_path.rglob("*onnxruntime*"))
