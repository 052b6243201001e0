"""Windows: the hop rule, the sawtooth, and weights that are exact on every machine."""

import pytest

from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE
from recsys.features.reference import decay_weight
from recsys.features.windows import DECAY_UNIT, EVER, Window, decayed, hop_for, last, settled


@pytest.mark.parametrize(
    ("window_ms", "hop_ms"),
    [
        (MS_PER_HOUR, 5 * MS_PER_MINUTE),
        (12 * MS_PER_HOUR, 5 * MS_PER_MINUTE),
        (13 * MS_PER_HOUR, MS_PER_HOUR),
        (12 * MS_PER_DAY, MS_PER_HOUR),
        (13 * MS_PER_DAY, MS_PER_DAY),
    ],
)
def test_hop_follows_from_the_window(window_ms: int, hop_ms: int) -> None:
    assert hop_for(window_ms) == hop_ms
    assert last(window_ms).hop_ms == hop_ms


def test_a_window_is_between_its_length_and_one_hop_more() -> None:
    window = last(MS_PER_HOUR)
    assert window.weights.tolist() == [1] * 13  # twelve whole tiles of five minutes and the current one
    assert window.retention_ms == MS_PER_HOUR + 5 * MS_PER_MINUTE


@pytest.mark.parametrize("window", [decayed(MS_PER_HOUR), decayed(2 * MS_PER_DAY), decayed(7 * MS_PER_DAY)])
def test_decay_weights_are_the_rounded_powers_of_two(window: Window) -> None:
    weights = window.weights.tolist()
    assert weights[0] == DECAY_UNIT == window.unit
    assert weights[window.half_life] == DECAY_UNIT // 2
    assert weights[-1] == DECAY_UNIT // 16
    assert weights == [decay_weight(age, window.half_life) for age in range(window.tiles)]


def test_settled_leaves_the_current_tile_out() -> None:
    assert settled(last(MS_PER_HOUR)).weights.tolist() == [0] + [1] * 12
    slow = decayed(7 * MS_PER_DAY)
    assert settled(slow).weights.tolist() == [0, *slow.weights.tolist()[1:]]
    assert settled(slow).unit == slow.unit


def test_lifetime_is_one_tile_of_weight_one() -> None:
    assert (EVER.hop_ms, EVER.weights.tolist(), EVER.unit) == (0, [1], 1)


def test_windows_that_do_not_fit_their_hop_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of its hop"):
        last(MS_PER_HOUR + 1)
    with pytest.raises(ValueError, match="multiple of its hop"):
        decayed(4 * MS_PER_DAY + MS_PER_HOUR)
