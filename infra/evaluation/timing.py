"""Time calls: one, the median of several, or several forms in turns."""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Call = Callable[[], object]


def seconds(call: Call, clock: Callable[[], float] = time.perf_counter) -> float:
    """How long the call takes, by `clock` (`time.process_time`: its processor time)."""
    began = clock()
    call()
    return clock() - began


def median_s(call: Call, times: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median seconds of `times` calls after one to warm up."""
    call()
    return float(np.median([seconds(call, clock) for _ in range(times)]))


def take_turns(forms: Mapping[str, Call], rounds: int, warm_up: int) -> dict[str, list[float]]:
    """Seconds of each call by form. Forms take turns, so that other load on the machine affects all alike."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds + warm_up):
        for name, form in forms.items():
            times[name].append(seconds(form))
    return {name: taken[warm_up:] for name, taken in times.items()}


def percentiles_ms(name: str, ms: Sequence[float], percentiles: Sequence[int] = (50, 99)) -> dict[str, float]:
    """`<name>_p50_ms` and so on."""
    return {f"{name}_p{q}_ms": float(np.percentile(ms, q)) for q in percentiles}
