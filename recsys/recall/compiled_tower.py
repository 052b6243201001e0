"""The user tower as compiled code, from weights that training exports next to `user_tower.onnx`.

It computes what the ONNX graph does, in float32: one user at a time, without the rows of padding.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from safetensors.numpy import load_file

from recsys.contracts.errors import InvalidBundle
from recsys.models.golden import agrees, golden_part
from recsys.models.mapped_arrays import mapped_arrays
from recsys.native import core

_log = structlog.get_logger(__name__)
KERNEL, GOLDEN = "user_tower_kernel.safetensors", "golden.safetensors"
_BLOCK = "block{}_qkv_w"


class CompiledTower:
    """Thread-safe; runs without Python's lock."""

    runtime = "compiled"

    def __init__(self, arrays: Mapping[str, NDArray[Any]], items: NDArray[np.float32]) -> None:
        """`arrays`: of `training.two_tower.kernel`. `items`: (n_items, d) the bundle's item vectors, read in place.
        Raises `InvalidBundle`: they are not the weights of a tower that the kernel knows."""
        blocks = [number for number in range(len(arrays)) if _BLOCK.format(number) in arrays]
        try:
            self._kernel = core.TowerKernel(dict(arrays), len(blocks), items)
        except (ValueError, TypeError) as error:
            raise InvalidBundle(f"{KERNEL}: {error}") from error
        self.takes_profile: bool = self._kernel.takes_profile

    def vectors(
        self,
        history: NDArray[np.int64],
        types: NDArray[np.int64],
        gaps: NDArray[np.int64],
        profile: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """(B, L) int64 each, and (B, PROFILE_SLOTS) if the tower takes it → (B, d) float32.
        Raises `ValueError`: the history has numbers that are no items of the bundle, or a type, gap or attribute is
        unknown."""
        if profile is None:
            profile = np.empty((len(history), 0), np.int64)
        given = (np.ascontiguousarray(array) for array in (history, types, gaps, profile))
        found: NDArray[np.float32] = self._kernel.run(
            **dict(zip(("history", "types", "gaps", "profile"), given, strict=True))
        )
        return found


def reproduces(tower: CompiledTower, golden: Mapping[str, NDArray[Any]]) -> bool:
    """Whether it computes a bundle's golden outputs (`user_tower/in/…`, `user_tower/out/…`)."""
    inputs = {name: a.astype(np.int64) for name, a in golden_part(golden, "user_tower/in/").items()}
    found, expected = tower.vectors(**inputs), golden["user_tower/out/user_vector"]
    return agrees(found, expected[:, : found.shape[1]])  # what is behind is the linear part's


def open_tower(folder: Path, items: NDArray[np.float32]) -> CompiledTower | None:
    """The tower of a bundle, if there is compiled code, the bundle has weights for it, and they compute its golden
    outputs; else None, and the reason in the log."""
    path = folder / KERNEL
    if core is None or not path.exists():
        return None
    try:
        tower = CompiledTower(mapped_arrays(path), items)
        if reproduces(tower, load_file(folder / GOLDEN)):
            return tower
        reason = "it computes other values than the golden outputs"
    except (InvalidBundle, KeyError, ValueError, TypeError) as error:
        reason = str(error)
    _log.warning("onnxruntime runs the user tower instead of compiled code", file=str(path), reason=reason)
    return None
