"""Randomness that depends on (seed, step, rank) alone, so that an interrupted run resumes with the same draws."""

import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed every global generator and choose deterministic kernels; call it before a model is built."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Seed torch before each step, so that resuming bit for bit needs no stored generator state."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> 1))
