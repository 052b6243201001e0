"""The runtimes of an exported ranker: those of serving, and OpenVINO where it is installed.

OpenVINO is an optional extra (`pip install recsys-reference[openvino]`, 50 MB): on CPUs with AMX or AVX512-BF16 it
multiplies in bfloat16 without another file. `recsys bench rank` says what it would bring.
"""

import threading
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from recsys.ranking.compiled import ONNX, open_ranker

Inputs = Mapping[str, NDArray[Any]]
Run = Callable[[Inputs], object]
Precision = Literal["f32", "bf16"]


def runs(variants: Mapping[str, Path], plain: str, threads: int) -> dict[str, Run]:
    """Every variant (name → folder) as it is served and, where it is installed, the fp32 file of `plain` by OpenVINO
    (fp32, bf16)."""
    found: dict[str, Run] = {
        name: open_ranker(folder, threads=threads).run for name, folder in variants.items()
    }
    if find_spec("openvino") is not None and plain in variants:
        found["openvino_f32"] = openvino_run(variants[plain] / ONNX, threads, "f32")
        found["openvino_bf16"] = openvino_run(variants[plain] / ONNX, threads, "bf16")
    return found


def openvino_run(model: Path, threads: int, precision: Precision) -> Run:
    """A thread-safe call: each thread has its own request, as OpenVINO requires."""
    import openvino

    properties = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(str(model), "CPU", properties)
    own = threading.local()

    def run(inputs: Inputs) -> object:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        return own.request.infer(dict(inputs))

    return run
