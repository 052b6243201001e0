"""Mappings from the columns of tables to events, items and users, as a user writes them in YAML.

MovieLens and KuaiRand are mappings that come with the code. `examples/` has more. Unknown keys are refused.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from recsys.contracts.attribution import Attribution
from recsys.contracts.errors import InvalidConfig
from recsys.contracts.events import MAX_CONTEXT_ENTRIES
from recsys.contracts.languages import MAX_TITLES, language_tag
from recsys.contracts.text import category_text, free_text
from recsys.contracts.types import EventType
from recsys.operator_files import read_yaml

TimeUnit = Literal["s", "ms", "us", "ns", "iso", "rows"]
Columns = Annotated[list[str], Field(min_length=1)]
Category = Annotated[str, AfterValidator(category_text)]
Attribute = Annotated[str, AfterValidator(free_text)]


def _norwegian(raw: object) -> object:
    """What `no` without quotes is to YAML."""
    return "no" if raw is False else raw


Language = Annotated[str, AfterValidator(language_tag), BeforeValidator(_norwegian)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Files(_Strict):
    """The files of a table, and the format of text files. `*.parquet` is read as Parquet; `*.jsonl`, `*.ndjson` and
    `*.json` as JSON lines."""

    files: Columns = Field(description="File names or patterns, relative to the folder of the data.")
    delimiter: str = Field(",", min_length=1, description='Between columns; may be longer than one: "::".')
    columns: Columns | None = Field(None, description="Column names of a file without a header line.")
    encoding: str = Field("utf-8", description="Text encoding, as Python names it.")
    quoted: bool = Field(True, description="Whether cells may be quoted with double quotes.")


class TimeColumn(_Strict):
    """A column of times: Unix time in `s`, `ms`, `us` or `ns`, or ISO 8601 dates and times (UTC without an offset).
    `rows`: there is no such column; the rows are in order, a second apart from `first` on."""

    column: str | None = None
    unit: TimeUnit = "ms"
    first: datetime | None = Field(None, description="With `unit: rows`: the time of the first row.")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.unit == "rows" and (self.first is None or self.column is not None):
            raise ValueError("`unit: rows` needs `first`, such as 2026-01-01, and no `column`")
        if self.unit != "rows" and (self.column is None or self.first is not None):
            raise ValueError("`column` is needed; `first` is of `unit: rows`, for a log without times")
        return self

    @property
    def first_ms(self) -> int:
        """With `unit: rows`: Unix milliseconds of the first row."""
        first = self.first or datetime.min
        return round((first if first.tzinfo else first.replace(tzinfo=UTC)).timestamp() * 1_000)


def _of_a_column(time: TimeColumn) -> TimeColumn:
    if time.column is None:
        raise ValueError("a time of items needs a column")
    return time


ItemTime = Annotated[TimeColumn, AfterValidator(_of_a_column)]


class EventRule(_Strict):
    """A row gives an event of `type` if the column `when` is true (`recsys.contracts.truth`), or if it equals
    `equals`."""

    type: EventType
    when: str | None = Field(None, description="The deciding column; none: every row.")
    equals: str | None = Field(None, description="The text that `when` must equal.")
    value: str | None = Field(
        None, description="The column of the event's value (stars, price, milliseconds)."
    )
    scale: tuple[float, float] | None = Field(
        None,
        description="Of a rating: the values that mean worst and best, such as [0, 1]; none: 1 to 5 stars.",
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.equals is not None and self.when is None:
            raise ValueError("`equals` needs `when`: the column to compare")
        if self.type is EventType.IMPRESSION and self.value:
            raise ValueError("an impression has no `value`")
        if self.scale and (self.type is not EventType.RATING or self.value is None):
            raise ValueError("`scale` is of a rating with a `value`")
        if self.scale and not self.scale[0] < self.scale[1]:
            raise ValueError("`scale` is [worst, best]: the first value must be less than the second")
        return self


def _attribution(text: str) -> str:
    Attribution.parse(text)
    return text


class EventTable(Files):
    """The table of what users did. A row may give several events (an impression and its click), each one millisecond
    after the one before, in the order of `events`."""

    user: str
    anonymous: str | None = Field(
        None, description="Column of the id of rows without a user, such as a session's or a device's."
    )
    item: str
    time: TimeColumn
    events: Annotated[list[EventRule], Field(min_length=1)]
    request: list[str] = Field([], description="Columns that together identify the request, if any.")
    position: str | None = Field(None, description="The column of the position in the list that was shown.")
    first_position: int = Field(0, ge=0, le=1, description="The position of the first item: 0 or 1.")
    context: dict[str, str] = Field(
        {}, max_length=MAX_CONTEXT_ENTRIES - 3, description="Context key → column."
    )
    id: str | None = Field(None, description="A column that distinguishes equal rows: the source's event id.")
    attribution: Annotated[str, AfterValidator(_attribution)] = Field(
        "auto",
        description="What becomes of outcomes without a request: auto, request or window:H (hours).",
    )

    def used(self) -> list[str]:
        """Every column that the mapping reads."""
        rules = [name for rule in self.events for name in (rule.when, rule.value)]
        return _unique(
            self.user,
            self.anonymous,
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
    title: str | None = Field(None, description="Column of the default title.")
    titles: dict[Language, str] = Field(
        {}, max_length=MAX_TITLES, description="Language, such as de or en-GB → column."
    )
    categories: str | None = Field(None, description="Column of one or more categories, the main one first.")
    separator: str = Field("|", min_length=1, description="Separates the categories of one cell.")
    prefix: str = Field("", description="Prepended to each category, to turn numbers into names.")
    ignored: list[str] = Field([], description="Categories to ignore, such as (no genres listed).")
    flags: dict[Category, str] = Field({}, description="Category → column that is 1 when the item has it.")
    creator: str | None = None
    created: ItemTime | None = None
    available_from: ItemTime | None = Field(None, description="In no list before; an empty cell: always.")
    available_until: ItemTime | None = Field(
        None, description="In no list from then on; an empty cell: forever."
    )
    regions: str | None = Field(
        None,
        description="Column of the regions that may see it, between `|`, `,` or `;`; an empty cell: all.",
    )
    attributes: dict[Attribute, str] = Field({}, description="Attribute → column.")

    def used(self) -> list[str]:
        """Every column that the mapping reads."""
        times = (self.created, self.available_from, self.available_until)
        return _unique(
            self.item,
            self.title,
            *self.titles.values(),
            self.categories,
            self.creator,
            *(time.column for time in times if time),
            self.regions,
            *self.flags.values(),
            *self.attributes.values(),
        )


class UserTable(Files):
    """Known users."""

    user: str
    attributes: dict[Attribute, str] = Field({}, description="Attribute → column.")

    def used(self) -> list[str]:
        """Every column that the mapping reads."""
        return _unique(self.user, *self.attributes.values())


class Mapping(_Strict):
    """A data set. Without `items`, the catalogue has the items that the events name."""

    events: EventTable
    items: ItemTable | None = None
    users: UserTable | None = None


def read_mapping(path: Path) -> Mapping:
    """Read a mapping from a YAML file.

    Raises:
        InvalidConfig: the file is unreadable or invalid; the message names each wrong key.
    """
    try:
        return read_yaml(path, Mapping, InvalidConfig)
    except InvalidConfig as error:
        raise InvalidConfig(f"{error} (docs/data.md describes every key)") from error


def _unique(*names: str | None) -> list[str]:
    return list(dict.fromkeys(name for name in names if name is not None))
