"""The base of every training configuration."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Frozen; an unknown field, and a number without end, are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def replace(self, **changes: Any) -> Self:
        """A validated copy with other values."""
        return type(self)(**{**dict(self), **changes})
