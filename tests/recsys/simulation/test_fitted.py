"""The fitted response model against a planted one."""

import numpy as np
import pytest

from recsys.simulation.fitted import Exposures, FittedResponse, Outcome, fit

USERS, ITEMS, PLACES = 300, 100, 3
SIZES = (USERS + 1, ITEMS + 1, PLACES)  # one user and one item that are never shown
PLACE = np.array([-0.8, 0.0, 0.8])


@pytest.fixture(scope="module")
def planted() -> tuple[Exposures, Outcome, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    user, item = rng.normal(0, 1.0, USERS), rng.normal(0, 0.5, ITEMS)
    n = 30_000
    shown = Exposures(
        rng.integers(0, USERS, n),
        rng.integers(0, ITEMS, n),
        rng.integers(0, PLACES, n),
        rng.lognormal(3, 1, n),
    )
    logit = -0.5 + user[shown.user] + item[shown.item] + PLACE[shown.place]
    click = rng.random(n) < 1 / (1 + np.exp(-logit))
    long_view = click & (rng.random(n) < 0.4)
    seconds = np.exp(1.0 + 0.3 * user[shown.user] + 0.5 * np.log(shown.duration_s) + rng.normal(0, 0.7, n))
    return shown, Outcome(click, long_view, np.where(click, seconds, 0.0)), user, item


@pytest.fixture(scope="module")
def fitted(planted: tuple[Exposures, Outcome, np.ndarray, np.ndarray]) -> FittedResponse:
    return fit(planted[0], planted[1], SIZES)


def test_the_planted_effects_are_found(
    planted: tuple[Exposures, Outcome, np.ndarray, np.ndarray], fitted: FittedResponse
) -> None:
    _, _, user, item = planted
    assert np.corrcoef(fitted.click.user[:USERS], user)[0, 1] > 0.9
    assert np.corrcoef(fitted.click.item[:ITEMS], item)[0, 1] > 0.9
    assert fitted.click.user_sd == pytest.approx(1.0, abs=0.15)
    assert fitted.click.item_sd == pytest.approx(0.5, abs=0.12)
    np.testing.assert_allclose(np.diff(fitted.click.place), np.diff(PLACE), atol=0.12)
    assert fitted.duration_power == pytest.approx(0.5, abs=0.03)
    assert fitted.seconds_sd == pytest.approx(0.7, abs=0.02)
    assert fitted.seconds.user_sd == pytest.approx(0.3, abs=0.05)


def test_a_constant_has_no_heterogeneity(fitted: FittedResponse) -> None:
    assert fitted.long_view.user_sd < 0.2
    assert fitted.long_view.item_sd < 0.2


def test_the_unknown_are_average_or_drawn(fitted: FittedResponse) -> None:
    assert np.isnan(fitted.click.user[USERS])
    n = 4_000
    nobody = Exposures(np.full(n, USERS), np.full(n, ITEMS), np.ones(n, np.int64), np.full(n, 20.0))
    assert len(np.unique(fitted.click_probability(nobody))) == 1
    rates = [fitted.respond(nobody, np.random.default_rng(s)).click.mean() for s in range(20)]
    assert np.std(rates) > 0.1, "one unknown user is one draw from the population"


def test_living_it_again_gives_the_same_moments(
    planted: tuple[Exposures, Outcome, np.ndarray, np.ndarray], fitted: FittedResponse
) -> None:
    shown, real, _, _ = planted
    lived, again = (fitted.respond(shown, np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(lived.click, again.click)
    assert lived.click.mean() == pytest.approx(real.click.mean(), abs=0.01)
    assert lived.long_view[lived.click].mean() == pytest.approx(0.4, abs=0.02)
    for q in (10, 50, 90):
        assert np.percentile(lived.seconds[lived.click], q) == pytest.approx(
            np.percentile(real.seconds[real.click], q), rel=0.07
        )
    assert not lived.long_view[~lived.click].any()
    assert not lived.seconds[~lived.click].any()


def test_users_differ_as_much_as_they_did_though_they_were_seen_little() -> None:
    """Twelve impressions a user: shrunk means alone would differ by a third less."""
    rng = np.random.default_rng(2)
    users, n = 1_500, 18_000
    taste = rng.normal(0, 1.0, users)
    user = np.repeat(np.arange(users), n // users)
    shown = Exposures(user, rng.integers(0, 50, n), np.zeros(n, np.int64), np.full(n, 20.0))
    click = rng.random(n) < 1 / (1 + np.exp(-taste[user]))
    fitted = fit(
        shown,
        Outcome(click, click & (rng.random(n) < 0.4), np.where(click, rng.lognormal(2, 1, n), 0.0)),
        (users, 50, 1),
    )
    assert fitted.click.user_sd == pytest.approx(1.0, abs=0.12)
    assert fitted.click.user.std() < 0.85
    later = Exposures(
        np.repeat(np.arange(users), 40), rng.integers(0, 50, 40 * users), np.zeros(40 * users, np.int64),
        np.full(40 * users, 20.0),
    )  # fmt: skip
    lived = fitted.respond(later, rng).click.reshape(users, 40).mean(axis=1)
    real = (rng.random((users, 40)) < 1 / (1 + np.exp(-taste))[:, None]).mean(axis=1)
    assert lived.std() == pytest.approx(real.std(), abs=0.015)
