"""Golden arrays of a model: inputs, and the outputs that training computed from them (`MODEL/in/…`, `MODEL/out/…`)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1e-3  # absolute or relative, whichever allows more


def golden_part(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    """Those below `prefix`, by what follows it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def agrees(found: NDArray[np.float32], wanted: NDArray[Any]) -> bool:
    """Whether an output is the golden one, of the same shape and within `TOLERANCE`. NaN equals nothing."""
    return found.shape == wanted.shape and np.allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE)
