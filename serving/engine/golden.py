"""The last check before a bundle becomes active: its models must reproduce the outputs that training recorded.

Checksums prove that the files are those that were published; golden outputs prove that this machine, with its version
of onnxruntime and its processor, computes what training computed.
"""

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from safetensors.numpy import load_file

from recsys.bundle import Bundle
from recsys.contracts.errors import InvalidBundle

MODELS = ("user_tower", "ranker")
TOLERANCE = 1e-3  # absolute or relative, whichever allows more

_Arrays = Mapping[str, NDArray[np.generic]]


def check_golden(bundle: Bundle) -> None:
    """Run both models on the golden inputs.
    Raises `InvalidBundle`: golden arrays of a model are missing, the model refuses them, or an output differs."""
    golden = load_file(bundle.file("golden.safetensors"))
    for model in MODELS:
        inputs, expected = _part(golden, f"{model}/in/"), _part(golden, f"{model}/out/")
        if not inputs or not expected:
            raise InvalidBundle(f"{bundle.path.name}: golden.safetensors has no inputs or outputs of {model}")
        for name, wanted in expected.items():
            _compare(f"{bundle.path.name}: {model}", name, wanted, _run(bundle, model, inputs, name))


def _part(arrays: _Arrays, prefix: str) -> dict[str, NDArray[np.generic]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _run(bundle: Bundle, model: str, inputs: _Arrays, output: str) -> NDArray[np.float32]:
    try:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(
            bundle.file(f"{model}.onnx"), options, providers=["CPUExecutionProvider"]
        )
        (found,) = session.run([output], dict(inputs))
    except Exception as error:  # onnxruntime raises its own, undocumented classes
        raise InvalidBundle(f"{bundle.path.name}: {model} cannot run its golden inputs: {error}") from error
    return np.asarray(found)


def _compare(model: str, name: str, wanted: NDArray[np.generic], found: NDArray[np.float32]) -> None:
    if found.shape != wanted.shape:
        raise InvalidBundle(f"{model} returns {name} as {found.shape}, expected {wanted.shape}")
    if not np.allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE):  # NaN equals nothing
        worst = float(np.max(np.abs(found - wanted.astype(np.float32))))
        raise InvalidBundle(
            f"{model} returns another {name} than its golden output (largest difference"
            f" {worst:.3g}, allowed {TOLERANCE:g}); train it again or check the onnxruntime version"
        )
