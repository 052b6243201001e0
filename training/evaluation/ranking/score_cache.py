"""Scores of models, in files named by what they depend on."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from recsys.files import staged_file

Parts = list[dict[str, NDArray[np.float64]]]  # of each part of the data: scores by head


class ScoreCache:
    """Call it with a name, what the scores depend on, and the computation."""

    def __init__(self, folder: Path | None, about: object) -> None:
        """
        Args:
            folder: of the files; None: nothing is stored.
            about: what all scores depend on, besides their own configuration.
        """
        self._folder, self._about = folder, about

    def __call__(self, name: str, configuration: object, compute: Callable[[], Parts]) -> Parts:
        if self._folder is None:
            return compute()
        path = self._folder / f"{name}-{self.digest(configuration)}.safetensors"
        if path.exists():
            return _parts(load_file(path))
        found = compute()
        arrays = {
            f"{i}/{head}": np.ascontiguousarray(x) for i, part in enumerate(found) for head, x in part.items()
        }
        with staged_file(path) as temporary:
            save_file(arrays, temporary)
        return found

    def digest(self, configuration: object) -> str:
        """What a model's files are named by, besides its name."""
        return hashlib.sha256(repr((self._about, configuration)).encode()).hexdigest()[:16]


def _parts(arrays: dict[str, NDArray[np.float64]]) -> Parts:
    found: Parts = [{} for _ in {key.split("/")[0] for key in arrays}]
    for key, scores in arrays.items():
        part, head = key.split("/")
        found[int(part)][head] = scores
    return found
