"""What makes a file of an earlier one: the bytes to add to its bytes, modulo 256.

A night of training moves most weights a little, so sign, exponent and first digits stay, and the difference is mostly
zeros in their bytes and noise in the others. `planes` puts the bytes of one place next to each other, which Deflate
can then code apart from the noise: two nights' float32 weights become a fifth smaller than without.
"""

import zlib

import numpy as np
from numpy.typing import NDArray


def difference(base: bytes, content: bytes) -> bytes:
    """As long as `content`; behind its end `base` counts as zeros, and what it has more is not read.

    >>> difference(b"abc", b"bbbZ")
    b'\\x01\\x00\\xffZ'
    """
    return (np.frombuffer(content, np.uint8) - _as_long(base, len(content))).tobytes()


def added(base: bytes, change: bytes) -> bytes:
    """The content of which `change` is the `difference`."""
    return (np.frombuffer(change, np.uint8) + _as_long(base, len(change))).tobytes()


def delta(base: bytes, content: bytes) -> bytes:
    """The difference, deflated (zlib)."""
    return zlib.compress(difference(base, content), 9)


def applied(base: bytes, change: bytes) -> bytes:
    """The content of which `change` is the `delta`. Raises `zlib.error`: it is damaged."""
    return added(base, zlib.decompress(change))


def planes(content: bytes, width: int) -> bytes:
    """The first bytes of all values of `width` bytes, then all second ones, and so on; a shorter last value stays.

    >>> planes(b"AaBbCc-", 2)
    b'ABCabc-'
    """
    return _transposed(content, (-1, width))


def interleaved(content: bytes, width: int) -> bytes:
    """The content that `planes` was given."""
    return _transposed(content, (width, -1))


def _transposed(content: bytes, shape: tuple[int, int]) -> bytes:
    whole = len(content) - len(content) % max(shape)
    return np.frombuffer(content[:whole], np.uint8).reshape(shape).T.tobytes() + content[whole:]


def _as_long(base: bytes, length: int) -> NDArray[np.uint8]:
    there = np.frombuffer(base, np.uint8)[:length]
    return np.pad(there, (0, length - len(there)))
