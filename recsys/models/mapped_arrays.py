"""Arrays of a safetensors file as they lie on disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidBundle

_DTYPES = {"F32": np.float32, "U8": np.uint8, "I8": np.int8, "I32": np.int32, "I64": np.int64}


def mapped_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Every array by name, read-only and mapped: processes share their memory.
    Raises `InvalidBundle`: the file is missing, or not of this format."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        if length % 8:  # our writer pads; compiled code reads the numbers in place
            raise ValueError("its arrays are not aligned")
        data = np.asarray(np.memmap(path, np.uint8, "r", offset=8 + length))
        return {
            key: data[slice(*of["data_offsets"])].view(_DTYPES[of["dtype"]]).reshape(of["shape"])
            for key, of in header.items()
        }
    except (OSError, ValueError, LookupError, TypeError, MemoryError, OverflowError) as error:
        raise InvalidBundle(f"{path}: not a safetensors file: {error}") from error
