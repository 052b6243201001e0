"""The memory that `recsys features size` predicts is what Redis then needs."""

from dataclasses import replace

import pytest

from infra.capacity.size import Population, measure, predict
from recsys.store.base import StoreConfig


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.parametrize("population", [Population(400, 150, 30), Population(250, 400, 60, days=5)])
def test_the_prediction_is_within_a_fifth_of_the_measurement(population: Population) -> None:
    config = StoreConfig()
    predicted = predict(population, config, sample_users=150)
    measured = measure(replace(population, seed=1), config)
    assert predicted.total == pytest.approx(measured.total, rel=0.2)
    assert predicted.users == pytest.approx(measured.users, rel=0.2)


@pytest.mark.slow
@pytest.mark.redis
def test_a_capped_sample_of_busy_users_is_within_a_quarter_of_the_measurement() -> None:
    """What `recsys size` does when each user has hundreds of events: twelve users stand for all."""
    population, config = Population(25, 1_000, 600), StoreConfig()
    predicted = predict(population, config, sample_users=12)
    measured = measure(replace(population, seed=1), config)
    assert predicted.total == pytest.approx(measured.total, rel=0.25)
    assert predicted.users == pytest.approx(measured.users, rel=0.25)


def test_a_sample_keeps_the_events_of_each_user_and_item() -> None:
    sample = Population(1_000, 300, 50).sample(100)
    assert (sample.users, sample.items, sample.events_per_user) == (100, 30, 50)
    assert Population(10, 300, 50).sample(100).users == 10
