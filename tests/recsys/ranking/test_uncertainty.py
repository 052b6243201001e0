import numpy as np
import pytest

from recsys.ranking.uncertainty import Uncertainty


def test_an_item_that_was_never_shown_has_all_of_the_variance() -> None:
    found = Uncertainty(item_variance=0.64).deviation(np.zeros(2), np.array([0.1, 0.5]))
    assert found.tolist() == pytest.approx([0.8, 0.8])


def test_impressions_bring_certainty() -> None:
    """Known answer: a variance of 1 with 300 impressions of probability .5 is 1 / (1 + 75)."""
    found = Uncertainty(item_variance=1.0).deviation(np.array([300.0, 3e6]), np.array([0.5, 0.5]))
    assert found[0] == pytest.approx(76**-0.5)
    assert found[1] < 0.002


def test_without_variance_everything_is_certain() -> None:
    assert not Uncertainty(item_variance=0.0).deviation(np.arange(3.0), np.full(3, 0.2)).any()


@pytest.mark.parametrize("variance", [-0.1, np.nan, np.inf])
def test_a_damaged_variance_is_refused(variance: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Uncertainty(item_variance=variance)
