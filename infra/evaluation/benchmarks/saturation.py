"""How many requests per second a server sustains: a load that is raised until it is too much."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from infra.evaluation.benchmarks.load import Answers, Load, run_load
from infra.terminal import console
from recsys.contracts.errors import Unavailable

_SUSTAINED = 0.97  # of the due requests answered within the run
_SATURATED_P99_MS = 500.0
_LOWER = 3.0  # the next rate is lower by this, while none is sustained


def sustained(answers: Answers, limit_ms: float = _SATURATED_P99_MS) -> bool:
    """Whether what was due was answered, with p99 within the limit."""
    answered = len(answers.ms) >= _SUSTAINED * (len(answers.ms) + answers.errors)
    return answered and answers.percentile(99) <= limit_ms


def saturate(
    load: Load, step: float, after_each: Callable[[Answers], object] = lambda answers: None
) -> dict[float, Answers]:
    """Answers by rate; rates grow until one is not sustained, and start lower if the first one is not, down to one
    request per second."""
    curve: dict[float, Answers] = {}
    while True:
        answers = curve[load.rate] = run_load(load)
        console.print(
            f"{load.rate:6.0f}/s due: {answers.per_s:6.0f}/s answered, p50 {answers.percentile(50):.1f} ms,"
            f" p99 {answers.percentile(99):.1f} ms, {answers.errors} errors"
        )
        after_each(answers)
        if sustained(answers):
            load = replace(load, rate=load.rate * step, seed=load.seed + 1)
        elif load.rate > 1 and not any(map(sustained, curve.values())):
            load = replace(load, rate=max(1.0, load.rate / _LOWER))
        else:
            return curve


def saturation(curve: Mapping[float, Answers]) -> float:
    """The most requests per second that were answered.

    Raises:
        Unavailable: no rate was sustained.
    """
    found = [answers.per_s for answers in curve.values() if sustained(answers)]
    if not found:
        raise Unavailable("not even one request per second is sustained; is the machine busy?")
    return max(found)
