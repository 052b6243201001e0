"""The feature values of the latest served lists, kept to be compared with what the ranker was trained on."""

import threading
from collections import deque

import numpy as np
from numpy.typing import NDArray

from recsys.pipeline.pipeline import Answer
from serving.runtime import Runtime

LISTS = 500


class ServedFeatures:
    """The last `LISTS` lists of this process, by the bundle that made them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lists: deque[NDArray[np.float32]] = deque(maxlen=LISTS)
        self._bundle = ""

    def note(self, runtime: Runtime, answer: Answer) -> None:
        """Keep a reference: the hot path copies nothing."""
        features, manifest = answer.candidates.features, runtime.bundle.manifest
        if features.shape[1] != len(manifest.feature_names):
            return
        with self._lock:
            if manifest.version != self._bundle:
                self._bundle = manifest.version
                self._lists.clear()
            self._lists.append(features)

    def matrix(self, bundle: str) -> NDArray[np.float32]:
        """(N, D) of the lists that this bundle made; (0, 0): none yet."""
        with self._lock:
            lists = list(self._lists) if bundle == self._bundle else []
        return np.concatenate(lists) if lists else np.empty((0, 0), np.float32)
