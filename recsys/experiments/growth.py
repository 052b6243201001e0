"""The outcomes of an experiment's arms over time, as `recsys.experiments.growth_reader` returns them."""

from pydantic import BaseModel, Field


class Interval(BaseModel):
    """A metric of one arm at one look, with its 95 % interval over users."""

    value: float
    low: float
    high: float


class AgainstControl(BaseModel):
    """The relative lift over the control (0.1: 10 % more) after CUPED, with its 95 % interval."""

    relative: float
    low: float
    high: float
    p: float = Field(description="valid for a single look")
    sequential_p: float = Field(description="valid for any number of looks: the minimum so far")


class ArmGrowth(BaseModel):
    """Each list has one entry per look."""

    name: str
    share: float = Field(description="planned share of the experiment's users")
    users: list[int] = Field(description="users who were shown a list, up to each look")
    lists: list[int]
    impressions: list[int]
    metrics: dict[str, list[Interval | None]] = Field(
        description="null: too few users, or no denominator yet"
    )
    lifts: dict[str, AgainstControl] = Field(description="at the last look; empty for the control")


class Growth(BaseModel):
    """The arms of one experiment over time. Without looks, the lake has no list of it yet."""

    experiment: str
    control: str = ""
    looks_ms: list[int] = Field([], description="time of each look, Unix milliseconds")
    newest_ms: int | None = Field(None, description="time of the newest list in the lake")
    arms: list[ArmGrowth] = []
    split_p: float = Field(
        1.0, description="below 0.001 the split is not as planned, and no metric can be trusted"
    )
    crossed: int = Field(0, description="users seen in several arms, who are left out")
    metrics: dict[str, str] = Field({}, description="description of each metric")
