"""The random streams that follow from a run's seed, each with a tag of its own, so that no two are the same."""

from enum import IntEnum, auto, unique

import numpy as np


@unique
class Stream(IntEnum):
    """From 1 on: NumPy takes a seed and the same seed with zeros after it for one."""

    MODEL = auto()
    SIGNS = auto()
    COLUMNS = auto()
    ROUND = auto()
    CENTRAL = auto()
    GOLDEN = auto()
    NOISE = auto()
    SUMS = auto()
    ATTACKERS = auto()

    def rng(self, seed: int, number: int = 0) -> np.random.Generator:
        """number: of the round, or of the cycle of rounds."""
        return np.random.default_rng((seed, self, number))
