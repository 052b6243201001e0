"""When a training is due."""

import pytest

from infra.release.triggers import Situation, TriggerPlan, reason_to_train
from recsys.contracts.types import MS_PER_HOUR

PLAN = TriggerPlan()


@pytest.mark.parametrize(
    ("hours", "drifted", "new_items", "reason"),
    [
        (2.9, 1.0, 1.0, ""),
        (4.0, None, None, ""),
        (4.0, 0.29, 0.04, ""),
        (4.0, 0.3, 0.0, "30% of the features have drifted"),
        (4.0, None, 0.05, "5% of the items are new to the models"),
        (24.0, 0.0, 0.0, "24.0 hours since the last training"),
    ],
)
def test_a_night_drift_and_new_items_ask_for_a_training(
    hours: float, drifted: float | None, new_items: float | None, reason: str
) -> None:
    situation = Situation(0, drifted, new_items)
    assert reason_to_train(situation, int(hours * MS_PER_HOUR), PLAN) == reason
