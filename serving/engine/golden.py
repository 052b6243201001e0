"""The last check before a bundle becomes active: its models must reproduce the outputs that training recorded.

Checksums prove that the files are those that were published; golden outputs prove that this machine, with its version
of onnxruntime and its processor, computes what training computed. The user tower's inputs have item numbers, so its
outputs also prove that the bundle's item vectors are those that it was trained with.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from recsys.bundle import Bundle
from recsys.contracts.errors import InvalidBundle
from recsys.models.onnx_session import open_session
from recsys.recall.two_tower import UserTower

TOLERANCE = 1e-3  # absolute or relative, whichever allows more

_Arrays = Mapping[str, NDArray[np.generic]]


def check_golden(bundle: Bundle) -> None:
    """Run both models on the golden inputs.
    Raises `InvalidBundle`: golden arrays of a model are missing, the model refuses them, or an output differs."""
    golden = load_file(bundle.file("golden.safetensors"))
    for model, run in {"user_tower": _run_tower, "ranker": _run_ranker}.items():
        inputs, expected = _part(golden, f"{model}/in/"), _part(golden, f"{model}/out/")
        if not inputs or not expected:
            raise InvalidBundle(f"{bundle.path.name}: golden.safetensors has no inputs or outputs of {model}")
        for name, wanted in expected.items():
            _compare(f"{bundle.path.name}: {model}", name, wanted, _run(run, bundle, model, inputs, name))


def _part(arrays: _Arrays, prefix: str) -> dict[str, NDArray[np.generic]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _run(
    run: Callable[[Bundle, _Arrays, str], NDArray[np.float32]],
    bundle: Bundle,
    model: str,
    inputs: _Arrays,
    output: str,
) -> NDArray[np.float32]:
    try:
        return run(bundle, inputs, output)
    except Exception as error:  # onnxruntime raises its own, undocumented classes
        raise InvalidBundle(f"{bundle.path.name}: {model} cannot run its golden inputs: {error}") from error


def _run_tower(bundle: Bundle, inputs: _Arrays, output: str) -> NDArray[np.float32]:
    vectors = bundle.arrays("item_vectors.safetensors")["vectors"]
    tower = UserTower(bundle.file("user_tower.onnx"), vectors)
    return tower.vectors(**{name: array.astype(np.int64, copy=False) for name, array in inputs.items()})


def _run_ranker(bundle: Bundle, inputs: _Arrays, output: str) -> NDArray[np.float32]:
    session = open_session("ranker.onnx", bundle.file("ranker.onnx"))
    found: NDArray[np.float32] = session.run([output], dict(inputs))[0]
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
