"""The learning-rate schedule of both models."""

import math


def warmup_cosine(step: int, warmup_steps: float, done: float) -> float:
    """Learning rate as a share of its peak: a linear warm-up times a cosine that ends at 2 %.

    Args:
        done: how much of the cosine is over, 0 to 1.

    >>> [warmup_cosine(step, 2, done) for step, done in ((0, 0.0), (1, 0.0), (9, 1.0))]
    [0.5, 1.0, 0.02]
    """
    warm = min(1.0, (step + 1) / max(warmup_steps, 1))
    return warm * (0.02 + 0.98 * (1 + math.cos(math.pi * min(done, 1.0))) / 2)
