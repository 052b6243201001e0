"""Counts that may be published: of users, with discrete Gaussian noise.

Canonne, Kamath, Steinke 2020, "The Discrete Gaussian for Differential Privacy". The sampler is theirs, on integers and
fractions alone, from the operating system's randomness: no rounding tells the noise from the count.
"""

import math
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction

# n → an integer in 0 … n - 1, all equally likely
Below = Callable[[int], int]


def private_counts(
    users: Iterable[Sequence[str]],
    items: Sequence[str],
    most: int,
    variance: Fraction,
    below: Below = secrets.randbelow,
) -> dict[str, int]:
    """How many users have each item, with noise; at least 0.

    Args:
        users: of each user, her items. The first `most` different ones count, once each: so she changes the counts by
            at most √most (their Euclidean norm).
        items: all items: which ones are counted must not tell who was there. Others are ignored.
        variance: of the noise on every count. The counts are ρ-zCDP with ρ = most / (2 · variance).
    """
    counts = dict.fromkeys(items, 0)
    for theirs in users:
        for item in list(dict.fromkeys(i for i in theirs if i in counts))[:most]:
            counts[item] += 1
    return {item: max(0, n + discrete_gaussian(variance, below)) for item, n in counts.items()}


def variance_of(noise_multiplier: float, most: int) -> Fraction:
    """The least variance, in thousandths, whose noise has this multiple of one user's norm.

    >>> variance_of(2.0, most=3)
    Fraction(12, 1)
    """
    return Fraction(math.ceil(1000 * most * noise_multiplier**2), 1000)


def best(counts: Mapping[str, int], k: int) -> dict[str, int]:
    """The k largest, the first by name among equals.

    >>> best({"b": 2, "a": 2, "c": 1}, 1)
    {'a': 2}
    """
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:k])


def discrete_gaussian(variance: Fraction, below: Below = secrets.randbelow) -> int:
    """An integer n with probability in proportion to exp(-n² / (2 · variance))."""
    scale = math.isqrt(math.floor(variance)) + 1
    while True:
        n = discrete_laplace(scale, below)
        if bernoulli_exp((abs(n) - variance / scale) ** 2 / (2 * variance), below):
            return n


def discrete_laplace(scale: int, below: Below = secrets.randbelow) -> int:
    """An integer n with probability in proportion to exp(-|n| / scale)."""
    while True:
        rest = below(scale)
        if not bernoulli_exp(Fraction(rest, scale), below):
            continue
        whole = 0
        while bernoulli_exp(Fraction(1), below):
            whole += 1
        size, negative = rest + scale * whole, bool(below(2))
        if size or not negative:  # else 0 would come twice as often
            return -size if negative else size


def bernoulli_exp(exponent: Fraction, below: Below = secrets.randbelow) -> bool:
    """True with probability exp(-exponent), exponent ≥ 0, without computing it.

    Each whole 1 is a draw of its own. For the rest x: k grows while draws of probability x / k succeed, and is odd at
    the end with probability exp(-x), by the exponential's series.
    """
    while exponent > 1:
        if not bernoulli_exp(Fraction(1), below):
            return False
        exponent -= 1
    k = 1
    while below(exponent.denominator * k) < exponent.numerator:
        k += 1
    return k % 2 == 1
