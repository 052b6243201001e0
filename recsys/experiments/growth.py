"""How the outcomes of an experiment's arms have grown: the answer of `recsys.experiments.growth_reader`."""

from pydantic import BaseModel, Field


class Interval(BaseModel):
    """A metric of one arm up to one look, with its 95 % interval by users."""

    value: float
    low: float
    high: float


class AgainstControl(BaseModel):
    """Relative to the control: 0.1 is a tenth more, with the 95 % interval, after CUPED."""

    relative: float
    low: float
    high: float
    p: float = Field(description="for one look")
    sequential_p: float = Field(
        description="holds however often somebody looks: the least of all looks so far"
    )


class ArmGrowth(BaseModel):
    """Every list has an entry a look."""

    name: str
    share: float = Field(description="planned, of the experiment's users")
    users: list[int] = Field(description="who were shown something, up to each look")
    lists: list[int]
    impressions: list[int]
    metrics: dict[str, list[Interval | None]] = Field(
        description="null: too few users, or no denominator yet"
    )
    lifts: dict[str, AgainstControl] = Field(description="at the last look; empty for the control")


class Growth(BaseModel):
    """The arms of one experiment over time. Without a look the lake has no list of it yet."""

    experiment: str
    control: str = ""
    looks_ms: list[int] = Field([], description="when each look was, Unix milliseconds")
    newest_ms: int | None = Field(None, description="time of the newest shown list that is in the lake")
    arms: list[ArmGrowth] = []
    split_p: float = Field(
        1.0, description="below 0.001 the users were not split as planned: trust nothing here"
    )
    crossed: int = Field(0, description="users seen in two arms, who are left out")
    metrics: dict[str, str] = Field({}, description="what each is")
