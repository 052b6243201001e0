"""Shamir's secret sharing (1979): any `threshold` of the shares give the secret, fewer give nothing."""

import secrets
from collections.abc import Callable, Iterable, Mapping

from recsys.contracts.errors import InvalidData

PRIME = 2**256 + 297  # the smallest above 2^256, so that any 32 bytes are a secret
SECRET_BYTES, SHARE_BYTES = 32, 33


def split(
    secret: bytes, holders: Iterable[int], threshold: int, below: Callable[[int], int] = secrets.randbelow
) -> dict[int, int]:
    """A share for each holder, a number from 1 on.

    Args:
        secret: 32 bytes.
        below: draws evenly from 0 to its argument, which is left out; from a secure source but in tests.

    Raises:
        InvalidData: a holder's share would be the secret itself, or that of another holder.
    """
    holders = list(holders)
    places = {holder % PRIME for holder in holders}
    if 0 in places or len(places) < len(holders):
        raise InvalidData("holders of shares must have different numbers from 1 on; start another round")
    coefficients = [int.from_bytes(secret), *(below(PRIME) for _ in range(threshold - 1))]
    return {holder: _value(coefficients, holder) for holder in holders}


def combine(shares: Mapping[int, int]) -> bytes:
    """The secret, from the shares of at least `threshold` holders.

    Raises:
        InvalidData: the shares give no 32 bytes. Most wrong shares give other 32 bytes; callers compare keys.
    """
    secret = 0
    for holder, share in shares.items():
        above = below = 1
        for other in shares:
            if other != holder:
                above = above * other % PRIME
                below = below * (other - holder) % PRIME
        secret = (secret + share * above * pow(below, -1, PRIME)) % PRIME
    if secret >> 8 * SECRET_BYTES:
        raise InvalidData("shares that give no secret: some are wrong; start another round")
    return secret.to_bytes(SECRET_BYTES)


def _value(coefficients: list[int], x: int) -> int:
    """The polynomial at x, by Horner's rule; the constant comes first."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value
