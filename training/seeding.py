"""Randomness that depends on (seed, step, rank) alone: a run that was killed draws on where it stopped."""

import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Before a model is built: every global generator, and deterministic kernels."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Before each step: no generator state has to be stored to resume bit for bit."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> 1))
