"""The student ranker as compiled code, from weights that training exports next to `ranker.onnx`.

It computes what the ONNX graph does, in float32, in about half the time: one pass over blocks of candidates instead of
a graph of small operations. It is for one shape of ranker only; golden outputs decide whether it may serve.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import structlog
from numpy.typing import NDArray
from safetensors.numpy import load_file

from recsys.contracts.errors import InvalidBundle
from recsys.contracts.types import Device, Head
from recsys.models.golden import agrees, golden_part
from recsys.models.mapped_arrays import mapped_arrays
from recsys.native import core
from recsys.ranking.scorer import OUTPUTS, RankerSession

_log = structlog.get_logger(__name__)
ONNX, KERNEL, GOLDEN = "ranker.onnx", "ranker_kernel.safetensors", "golden.safetensors"
_EXPERT = "expert{}_w"


class CompiledRanker:
    """`recsys.ranking.scorer.Ranker`. Thread-safe; runs without Python's lock."""

    runtime: ClassVar[str] = "compiled"

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """`arrays`: of `training.ranker.kernel`; the large ones are read in place.
        Raises `InvalidBundle`: they are not the weights of a ranker that the kernel knows."""
        layers = [number for number in range(len(arrays)) if _EXPERT.format(number) in arrays]
        try:
            self._kernel = core.RankerKernel(dict(arrays), len(layers))
        except (KeyError, ValueError, TypeError) as error:
            raise InvalidBundle(f"{KERNEL}: {error}") from error
        self.n_features: int | None = self._kernel.features

    def run(self, arrays: Mapping[str, NDArray[np.generic]]) -> dict[Head, NDArray[np.float32]]:
        """All heads of one user's candidates, as `RankerSession.run`."""
        given = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        found = self._kernel.run(
            history=given["history"].reshape(-1),
            types=given["types"].reshape(-1),
            gaps=given["gaps"].reshape(-1),
            items=given["items"],
            features=given["features"],
            position=given["position"],
        )
        return dict(zip(Head, found, strict=True))


def reproduces(ranker: CompiledRanker, golden: Mapping[str, NDArray[Any]]) -> bool:
    """Whether it computes a bundle's golden outputs (`ranker/in/…`, `ranker/out/…`)."""
    found = ranker.run(golden_part(golden, "ranker/in/"))
    wanted = golden_part(golden, "ranker/out/")
    return all(agrees(found[Head(name)], wanted[name]) for name in OUTPUTS)


ExportedRanker = CompiledRanker | RankerSession


def open_ranker(
    folder: Path, native: bool = core is not None, device: Device = Device.CPU, threads: int = 1
) -> ExportedRanker:
    """The ranker of a bundle or of a work folder: compiled, if the folder has weights for it that compute the golden
    outputs and `native` says that there is compiled code; else by onnxruntime. `threads`: of one call of onnxruntime.

    Raises:
        InvalidBundle: neither can be used.
        InvalidConfig: CUDA is requested and not available.
    """
    if native and device is Device.CPU and (folder / KERNEL).exists():
        try:
            ranker = CompiledRanker(mapped_arrays(folder / KERNEL))
            if reproduces(ranker, load_file(folder / GOLDEN)):
                return ranker
            reason = "it computes other values than the golden outputs"
        except (InvalidBundle, KeyError, ValueError) as error:
            reason = str(error)
        _log.warning("onnxruntime ranks instead of compiled code", file=str(folder / KERNEL), reason=reason)
    return RankerSession(folder / ONNX, threads, device)
