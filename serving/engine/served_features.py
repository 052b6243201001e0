"""Feature values of the latest served lists, for the comparison with the training data (drift)."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from recsys.contracts.request import Answer
from serving.engine.runtime import Runtime

LISTS = 500


class ServedFeatures:
    """The last `LISTS` lists of this process, each with its bundle. Thread-safe, as a deque's append is."""

    def __init__(self) -> None:
        self._lists: deque[tuple[str, NDArray[np.float32]]] = deque(maxlen=LISTS)

    def note(self, runtime: Runtime, answer: Answer) -> None:
        """Store a reference: the hot path copies nothing."""
        features, manifest = answer.candidates.features, runtime.bundle.manifest
        if features.shape[1] == len(manifest.feature_names):
            self._lists.append((manifest.version, features))

    def matrix(self, bundle: str) -> NDArray[np.float32]:
        """(N, D) of this bundle's lists; (0, 0): none yet."""
        lists = [features for version, features in self._lists.copy() if version == bundle]
        return np.concatenate(lists) if lists else np.empty((0, 0), np.float32)
