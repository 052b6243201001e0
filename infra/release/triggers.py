"""When a new training is due: a night has passed, the features have drifted, or many items are new to the models."""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from recsys.contracts.types import MS_PER_HOUR


class TriggerPlan(BaseModel):
    """The rules. Unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every_hours: float = Field(
        24.0, gt=0, description="Time between two trainings, if nothing else asks for one."
    )
    least_hours: float = Field(3.0, ge=0, description="Time between two trainings, whatever asks for one.")
    drifted: float = Field(
        0.3, gt=0, le=1, description="Share of features with a PSI above 0.25 that asks for a training."
    )
    new_items: float = Field(
        0.05,
        gt=0,
        le=1,
        description="Share of items that the serving bundle does not know that asks for one.",
    )


@dataclass(frozen=True)
class Situation:
    """What triggers read. None: not known."""

    trained_ms: int  # when the newest training began, or the serving bundle was made
    drifted: float | None
    new_items: float | None


def reason_to_train(now: Situation, at_ms: int, plan: TriggerPlan) -> str:
    """Why a training is due; empty: it is not."""
    hours = (at_ms - now.trained_ms) / MS_PER_HOUR
    if hours < plan.least_hours:
        return ""
    if hours >= plan.every_hours:
        return f"{hours:.1f} hours since the last training"
    if now.drifted is not None and now.drifted >= plan.drifted:
        return f"{now.drifted:.0%} of the features have drifted"
    if now.new_items is not None and now.new_items >= plan.new_items:
        return f"{now.new_items:.0%} of the items are new to the models"
    return ""
