"""Shamir's shares: known answers, any threshold of them, and nothing from fewer."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.errors import InvalidData
from training.federated.shamir import PRIME, combine, split


def test_known_answers() -> None:
    """1234 + 166 x + 94 x², the example of Wikipedia's article, whose values are below both primes."""
    coefficients = iter([166, 94])
    shares = split((1234).to_bytes(32), range(1, 7), 3, lambda bound: next(coefficients))
    assert shares == {1: 1494, 2: 1942, 3: 2578, 4: 3402, 5: 4414, 6: 5614}
    for three in combinations(shares, 3):
        assert combine({holder: shares[holder] for holder in three}) == (1234).to_bytes(32)


@given(st.binary(min_size=32, max_size=32), st.integers(1, 6), st.permutations(range(1, 8)))
def test_any_threshold_of_shares_gives_any_secret(secret: bytes, threshold: int, holders: list[int]) -> None:
    shares = split(secret, range(1, 8), threshold)
    assert combine({holder: shares[holder] for holder in holders[:threshold]}) == secret


def test_fewer_shares_fit_every_secret() -> None:
    """With two of three shares, any third share at 0 is possible: for each secret there is one polynomial."""
    shares = split((5).to_bytes(32), (1, 2), 3, lambda bound: 77)
    for secret in (0, 5, 2**255):
        # the line through the two shares, plus a multiple of (x - 1)(x - 2) that moves its value at 0 to the secret
        at_0 = (2 * shares[1] - shares[2]) % PRIME
        bend = (secret - at_0) * pow(2, -1, PRIME) % PRIME
        third = (2 * shares[2] - shares[1] + 2 * bend) % PRIME  # at 3
        assert combine({**shares, 3: third}) == secret.to_bytes(32)


@pytest.mark.parametrize("holders", [(0, 1), (1, PRIME), (1, 2, 1), (1, PRIME + 1)])
def test_a_holder_at_zero_or_twice_is_refused(holders: tuple[int, ...]) -> None:
    """The polynomial at 0 is the secret, and its values repeat every `PRIME` numbers."""
    with pytest.raises(InvalidData, match="different numbers from 1 on"):
        split(bytes(32), holders, 2)


def test_a_value_of_more_than_32_bytes_is_no_secret() -> None:
    shares = split(bytes(32), (1, 2, 3), 2, lambda bound: PRIME - 1)
    with pytest.raises(InvalidData, match="start another round"):
        combine({1: shares[1], 2: (shares[2] + 1) % PRIME})
