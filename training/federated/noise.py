"""Gaussian noise of a round, from the operating system's secure source: noise that can be repeated can be removed."""

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.federated.streams import Stream

Noise = Callable[[int], NDArray[np.float64]]  # n → n independent standard normal numbers


def secure_noise(n: int) -> NDArray[np.float64]:
    """By Box and Muller (1958), from 53 random bits per uniform number."""
    words = np.frombuffer(os.urandom(16 * n), np.uint64).reshape(2, n) >> np.uint64(11)
    radius, angle = (words + np.array([[1.0], [0.0]])) / 2**53  # in (0, 1] and [0, 1)
    return np.asarray(np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle), np.float64)


def seeded_noise(seed: int) -> Noise:
    """For evaluations and tests."""
    return Stream.NOISE.rng(seed).standard_normal
