"""What fits in the first minutes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.choices import LEAST_FIRST_MINUTES, first_sizes


@given(st.floats(0.0, 60.0), st.floats(0.0, 60.0))
def test_more_minutes_learn_from_more(one: float, other: float) -> None:
    less, more = first_sizes(min(one, other)), first_sizes(max(one, other))
    assert less.built <= more.built
    assert less.examples <= more.examples
    assert less.epochs <= more.epochs
    slack = more.epochs  # rounding of each epoch's events
    assert less.events * less.epochs <= more.events * more.epochs + slack


@pytest.mark.parametrize("minutes", [0.0, LEAST_FIRST_MINUTES])
def test_the_least_is_still_a_bundle(minutes: float) -> None:
    sizes = first_sizes(minutes)
    assert sizes == first_sizes(LEAST_FIRST_MINUTES)
    assert min(sizes.built, sizes.events, sizes.examples, sizes.epochs) > 0
