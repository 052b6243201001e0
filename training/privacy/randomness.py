"""Where the noise and the samples of private and federated training come from: a secure source, except in tests.

Noise that can be guessed protects nobody, and the generators of numpy and torch can be: their state follows from a few
hundred outputs.
"""

import secrets
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_SUMMED = 4  # normals in one: the low bits of a single float would tell its noise from its signal


class Randomness(Protocol):
    """A source of independent draws."""

    def uniform(self, n: int) -> Floats:
        """(n,) in [0, 1)."""

    def normal(self, n: int) -> Floats:
        """(n,) with mean 0 and variance 1."""


class SecureRandomness:
    """Keys of the operating system, each expanded once by ChaCha20.

    A normal is the scaled sum of four (Holohan and Braghin 2021, "Secure Random Sampling in Differential Privacy"),
    against attacks on the gaps between floating-point numbers (Mironov 2012).
    """

    def uniform(self, n: int) -> Floats:
        stream = Cipher(ChaCha20(secrets.token_bytes(32), secrets.token_bytes(16)), mode=None).encryptor()
        drawn = np.frombuffer(stream.update(bytes(8 * n)), np.uint64)
        return np.asarray((drawn >> np.uint64(11)) * 2.0**-53, np.float64)

    def normal(self, n: int) -> Floats:
        """By Box and Muller."""
        distance, turn = self.uniform(_SUMMED * n).reshape(2, -1)
        radius, angle = np.sqrt(-2 * np.log1p(-distance)), 2 * np.pi * turn
        normals = np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))
        return np.asarray(normals.reshape(_SUMMED, n).sum(0) / _SUMMED**0.5)


class SeededRandomness:
    """For tests and evaluations: the same seed gives the same draws, so that they hide nothing."""

    def __init__(self, seed: int | np.random.Generator) -> None:
        self._generator = np.random.default_rng(seed)

    def uniform(self, n: int) -> Floats:
        return self._generator.random(n)

    def normal(self, n: int) -> Floats:
        return self._generator.standard_normal(n)
