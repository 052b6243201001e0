"""A log split by time into training, validation and test rows: no row of a later period is older than one before it."""

from datetime import date
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import MS_PER_DAY
from recsys.lake.lake import start_of
from training.config import Config
from training.ranker.dataset import latest_share

PERIODS = ("train", "validation", "test")


class TimeSplit(Config):
    """By shares of the examples, or by days (UTC)."""

    train: float = Field(0.8, gt=0, lt=1, description="The oldest share.")
    validation: float = Field(0.1, gt=0, lt=1, description="The share after it; the rest is the test.")
    train_until: date | None = Field(None, description="Last day of the training rows, instead of shares.")
    validate_until: date | None = Field(None, description="Last day of the validation rows.")

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.train + self.validation >= 1:
            raise ValueError(
                "training and validation take all rows: choose shares that add up to less than 1"
            )
        if (self.train_until is None) != (self.validate_until is None):
            raise ValueError("give the last days of both the training and the validation rows, or neither")
        if self.train_until and self.validate_until and self.train_until >= self.validate_until:
            raise ValueError("the validation rows must end after the training rows")
        return self

    def bounds(self, time_ms: NDArray[np.int64]) -> tuple[int, int]:
        """Where validation and test begin; rows of one instant stay together. `time_ms`: (n,) ascending.

        Raises:
            InvalidData: a period would have no rows.
        """
        first = second = 0
        if self.train_until and self.validate_until:
            ends = [start_of(day.isoformat()) + MS_PER_DAY for day in (self.train_until, self.validate_until)]
            first, second = (int(np.searchsorted(time_ms, end)) for end in ends)
        elif len(time_ms):
            second = latest_share(time_ms, 1 - self.train - self.validation)
            first = latest_share(time_ms[:second], self.validation / (self.train + self.validation))
        empty = [p for p, n in zip(PERIODS, np.diff([0, first, second, len(time_ms)]), strict=True) if not n]
        if empty:
            raise InvalidData(
                f"{len(time_ms):,} examples leave no rows for {' and '.join(empty)}: give other shares or days, or more"
                " data"
            )
        return first, second
