"""How the columns of a table become events, items and users: the YAML that a user writes for their own files.

Every layout of this package is such a mapping; MovieLens and KuaiRand are mappings that come with the code. An
example is `examples/shop/mapping.yaml`. Unknown keys are refused.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.events import MAX_CONTEXT_ENTRIES
from recsys.contracts.types import EventType

TimeUnit = Literal["s", "ms", "us", "iso"]
Columns = Annotated[list[str], Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Files(_Strict):
    """Which files, and how text files among them are written. `*.parquet` is read as Parquet."""

    files: Columns = Field(description="File names or patterns, relative to the folder of the data.")
    delimiter: str = Field(",", min_length=1, description='Between columns; may be longer than one: "::".')
    columns: Columns | None = Field(None, description="Column names of a file without a header line.")
    encoding: str = Field("utf-8", description="Text encoding, as Python names it.")
    quoted: bool = Field(True, description="Whether cells may be quoted with double quotes.")


class TimeColumn(_Strict):
    """A column of times: Unix time in `s`, `ms` or `us`, or ISO 8601 dates and times (UTC without an offset)."""

    column: str
    unit: TimeUnit = "ms"


class EventRule(_Strict):
    """One row gives one event of `type`, if `when` holds: that column is neither empty, 0 nor false; or `equals`."""

    type: EventType
    when: str | None = Field(None, description="The column that decides; none: always.")
    equals: str | None = Field(None, description="The text that the column `when` must hold.")
    value: str | None = Field(
        None, description="The column of the event's value (stars, price, milliseconds)."
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.equals is not None and self.when is None:
            raise ValueError("`equals` needs `when`: the column to compare")
        return self


class EventTable(Files):
    """The table of what users did. A row may give several events (an impression and its click), one millisecond
    after the other in the order of `events`."""

    user: str
    item: str
    time: TimeColumn
    events: Annotated[list[EventRule], Field(min_length=1)]
    request: list[str] = Field([], description="Columns that together name the request, if any.")
    position: str | None = None
    context: dict[str, str] = Field(
        {}, max_length=MAX_CONTEXT_ENTRIES - 2, description="Context key → column."
    )
    id: str | None = Field(
        None, description="A column that tells equal rows apart: the source's own event id."
    )

    def used(self) -> list[str]:
        """Every column that the mapping reads."""
        rules = [name for rule in self.events for name in (rule.when, rule.value)]
        return _unique(
            self.user,
            self.item,
            self.time.column,
            *rules,
            *self.request,
            self.position,
            self.id,
            *self.context.values(),
        )


class ItemTable(Files):
    """The catalogue."""

    item: str
    title: str | None = None
    categories: str | None = Field(None, description="Column of one or more categories, the main one first.")
    separator: str = Field("|", min_length=1, description="Between the categories of one cell.")
    prefix: str = Field("", description="Put before each category: makes names of numbers.")
    ignored: list[str] = Field([], description="Categories that say nothing, such as (no genres listed).")
    flags: dict[str, str] = Field({}, description="Category → column that is 1 when the item has it.")
    creator: str | None = None
    created: TimeColumn | None = None
    attributes: dict[str, str] = Field({}, description="Attribute → column.")

    def used(self) -> list[str]:
        """Every column that the mapping reads."""
        created = self.created.column if self.created else None
        return _unique(
            self.item,
            self.title,
            self.categories,
            self.creator,
            created,
            *self.flags.values(),
            *self.attributes.values(),
        )


class UserTable(Files):
    """Known users."""

    user: str
    attributes: dict[str, str] = Field({}, description="Attribute → column.")

    def used(self) -> list[str]:
        """Every column that the mapping reads."""
        return _unique(self.user, *self.attributes.values())


class Mapping(_Strict):
    """A whole data set. Without `items`, the items are those that the events name."""

    events: EventTable
    items: ItemTable | None = None
    users: UserTable | None = None


def read_mapping(path: Path) -> Mapping:
    """The mapping of a YAML file.

    Raises:
        InvalidConfig: the file cannot be read, or naming each key that is wrong and why.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidConfig(f"{path}: not a readable YAML mapping: {error}") from error
    try:
        return Mapping.model_validate(content)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'mapping'}: {e['msg']}" for e in error.errors())
        raise InvalidConfig(f"{path}: {wrong} (docs/data.md describes every key)") from error


def _unique(*names: str | None) -> list[str]:
    return list(dict.fromkeys(name for name in names if name is not None))
