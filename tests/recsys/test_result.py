"""The one result format: goals are judged as written, and NaN never meets one."""

import json
import math

import numpy as np
import pytest

from recsys.result import Goal, Result


@pytest.mark.parametrize(
    ("op", "below", "at", "above"),
    [
        ("<", True, False, False),
        ("<=", True, True, False),
        ("==", False, True, False),
        (">=", False, True, True),
        (">", False, False, True),
    ],
)
def test_every_comparison(op: str, below: bool, at: bool, above: bool) -> None:
    goal = Goal(op, 1.0)  # type: ignore[arg-type]
    assert (goal.met(0.5), goal.met(1.0), goal.met(1.5)) == (below, at, above)
    assert not goal.met(math.nan)


def test_the_object_has_the_agreed_keys() -> None:
    result = Result("bench x", 7, {"p99_ms": 3.0, "hits": 0.5}, {"p99_ms": Goal("<=", 2.0)})
    content = result.to_dict()
    assert set(content) == {"command", "seed", "hardware", "versions", "figures", "goals", "met", "notes"}
    assert content["goals"] == {"p99_ms": {"op": "<=", "value": 2.0, "met": False}}
    assert content["met"] is False
    assert content["hardware"]["cores"] >= 1
    assert "numpy" in content["versions"]


def test_numbers_of_numpy_are_numbers_in_json() -> None:
    figures = {"share": np.float32(0.5), "wide": np.float64(0.25), "rows": 3}
    result = Result("x", 0, figures, {"wide": Goal("<", 1.0)})  # type: ignore[arg-type]
    content = json.loads(json.dumps(result.to_dict()))
    assert content["figures"] == {"share": 0.5, "wide": 0.25, "rows": 3}
    assert content["goals"]["wide"]["met"] is True


def test_a_goal_without_a_figure_is_a_mistake() -> None:
    with pytest.raises(KeyError, match="p99"):
        Result("x", 0, {}, {"p99": Goal("<", 1)})
