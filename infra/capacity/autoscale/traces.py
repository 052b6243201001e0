"""Traces of load for the simulation: expected work per second, for each second.

diurnal: one busy evening and a quiet night, as the density of von Mises' distribution, whose peak over its mean is the
sizing table's `peak_factor`.
flash: the same day with flash crowds, each a linear way up, a plateau and an exponential way down (Ari, Hong, Miller,
Brandt, Long: Managing Flash Crowds on the Internet, MASCOTS 2003).
"""

import numpy as np
from numpy.typing import NDArray

Trace = NDArray[np.float64]

DAY_S = 86_400
CROWDS = 4  # per day
TIMES = (2.0, 4.0)  # the rate of the moment, at the peak of a crowd
UP_S = (15.0, 300.0)  # a push notification; a link that spreads
PLATEAU_S = (300.0, 1_200.0)
DOWN_S = (300.0, 1_200.0)  # to 1/e


def diurnal(peak: float, factor: float, seconds: int = DAY_S) -> Trace:
    """A day in `seconds` seconds, (seconds,) float64, from its quietest moment on."""
    grid = np.linspace(0.0, 100.0, 100_001)
    concentration = np.interp(factor, np.exp(grid) / np.i0(grid), grid)
    angle = 2 * np.pi * np.arange(seconds) / seconds
    return np.asarray(peak * np.exp(concentration * (-np.cos(angle) - 1)))


def flash(day: Trace, most: float, rng: np.random.Generator, crowds: int = CROWDS) -> Trace:
    """The day with flash crowds, none of which exceeds `most`. (len(day),) float64."""
    second = np.arange(len(day))
    times = np.ones(len(day))
    for start in rng.uniform(0, len(day), crowds):
        up, plateau, down = (rng.uniform(*span) for span in (UP_S, PLATEAU_S, DOWN_S))
        after = second - start
        shape = np.clip(after / up, 0, 1) * np.exp(-np.clip(after - up - plateau, 0, None) / down)
        times += (rng.uniform(*TIMES) - 1) * shape
    return np.minimum(day * times, np.maximum(day, most))
