"""The last check before a bundle becomes active: its models must reproduce the outputs that training recorded.

Checksums prove that the files are those that were published; golden outputs prove that this machine, with its versions
of libraries and its processor, computes what training computed, by whatever will serve: compiled code or onnxruntime.
The user tower's inputs have item numbers, so its outputs also prove that the bundle's item vectors are those that it
was trained with.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from recsys.bundle import Bundle
from recsys.contracts.errors import InvalidBundle
from recsys.models.golden import TOLERANCE, agrees, golden_part
from recsys.ranking.scorer import Ranker
from recsys.recall.two_tower import OUTPUT, UserTower

_Arrays = Mapping[str, NDArray[np.generic]]


def check_tower(bundle: Bundle, tower: UserTower) -> None:
    """Raises `InvalidBundle`: golden arrays are missing, the tower refuses them, or an output differs."""
    _check(bundle, "user_tower", lambda inputs: {OUTPUT: tower.vectors(**_numbers(inputs))})


def check_ranker(bundle: Bundle, ranker: Ranker) -> None:
    """Raises `InvalidBundle`: golden arrays are missing, the ranker refuses them, or an output differs."""
    _check(
        bundle, "ranker", lambda inputs: {str(head): scores for head, scores in ranker.run(inputs).items()}
    )


def _numbers(inputs: _Arrays) -> dict[str, NDArray[np.int64]]:
    return {name: array.astype(np.int64, copy=False) for name, array in inputs.items()}


def _check(bundle: Bundle, model: str, run: Callable[[_Arrays], Mapping[str, NDArray[np.float32]]]) -> None:
    golden, name = load_file(bundle.file("golden.safetensors")), bundle.path.name
    inputs, expected = golden_part(golden, f"{model}/in/"), golden_part(golden, f"{model}/out/")
    if not inputs or not expected:
        raise InvalidBundle(f"{name}: golden.safetensors has no inputs or outputs of {model}")
    try:
        found = run(inputs)
    except Exception as error:  # onnxruntime raises its own, undocumented classes
        raise InvalidBundle(f"{name}: {model} cannot run its golden inputs: {error}") from error
    for output, wanted in expected.items():
        if output not in found:
            raise InvalidBundle(f"{name}: {model} has no output {output}, of which there are golden values")
        _compare(f"{name}: {model}", output, wanted, found[output])


def _compare(model: str, name: str, wanted: NDArray[np.generic], found: NDArray[np.float32]) -> None:
    if found.shape != wanted.shape:
        raise InvalidBundle(f"{model} returns {name} as {found.shape}, expected {wanted.shape}")
    if not agrees(found, wanted):
        worst = float(np.max(np.abs(found - wanted.astype(np.float32))))
        raise InvalidBundle(
            f"{model} returns another {name} than its golden output (largest difference"
            f" {worst:.3g}, allowed {TOLERANCE:g}); train it again or check the onnxruntime version"
        )
