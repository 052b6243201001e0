"""Business rules: pin, block and boost, from a YAML file that may change while serving.

    rules:
      - name: licence ended
        block: {items: ["42", "43"], categories: [Trailer]}
      - name: launch
        pin: {item: "1182", position: 0}
        when: {from: 2026-06-01T00:00:00Z, until: 2026-06-08T00:00:00Z, context: {device: mobile}}
      - name: our own
        boost: {creators: [studio-1], factor: 1.3}
      - name: clearance
        boost: {where: "price < 10 and not brand == 'acme'", factor: 1.2}

When the file becomes invalid, the last valid rules stay in force, and `RuleBook.error` gives the reason. One that is
invalid at the start has no rules until it is corrected.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from recsys.contracts.errors import InvalidConfig, InvalidFilter
from recsys.contracts.filters import Among, Condition, Kind, parse_filter
from recsys.contracts.filters import Field as ItemField
from recsys.contracts.request import Query
from recsys.operator_files import read_yaml
from recsys.watched_file import WatchedFile


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class When(_Model):
    """When a rule holds: all given conditions must be true; without conditions always."""

    since: AwareDatetime | None = Field(None, alias="from", description="From this time on, with its zone.")
    until: AwareDatetime | None = Field(None, description="Before this time, with its zone.")
    context: dict[str, str] = Field({}, description="Entries that the request's context must have.")

    def holds(self, query: Query) -> bool:
        now = datetime.fromtimestamp(query.now_ms / 1000, UTC)
        return (
            (self.since is None or now >= self.since)
            and (self.until is None or now < self.until)
            and self.context.items() <= query.context.items()
        )


def _expression(text: str) -> str:
    try:
        parse_filter(text)
    except InvalidFilter as error:
        raise ValueError(str(error)) from error
    return text


class Target(_Model):
    """Items that match any of the lists, or for which `where` holds: an expression as in requests' filters."""

    items: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()
    creators: frozenset[str] = frozenset()
    where: Annotated[str, AfterValidator(_expression)] = ""

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """An item that is not in `items` matches if one of them holds."""
        lists = (("categories", self.categories), ("creator", self.creators))
        named = (Among(ItemField(name, Kind.TEXT), texts) for name, texts in lists if texts)
        return (*named, *((parse_filter(self.where).condition,) if self.where else ()))

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if not (self.items or self.categories or self.creators or self.where):
            raise ValueError("name items, categories or creators, or say where")
        return self


class Boost(Target):
    """Multiplies the score of matching items; above 1 moves up, below 1 down."""

    factor: float = Field(gt=0, le=1000)


class Pin(_Model):
    """Puts one item at one position, if the request may show it."""

    item: str
    position: int = Field(ge=0, lt=1000, description="From 0, the top.")


class Rule(_Model):
    """One rule: exactly one of pin, block and boost."""

    name: str = Field(min_length=1)
    pin: Pin | None = None
    block: Target | None = None
    boost: Boost | None = None
    when: When = When()

    @model_validator(mode="after")
    def _does_one_thing(self) -> Self:
        if sum(action is not None for action in (self.pin, self.block, self.boost)) != 1:
            raise ValueError("exactly one of pin, block and boost is needed")
        return self


class Rules(_Model):
    """The file."""

    rules: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [rule.name for rule in self.rules]
        if len(set(names)) != len(names):
            raise ValueError("rules need different names")
        return self


def read_rules(path: Path) -> Rules:
    """
    Raises:
        InvalidConfig: names the file, the place in it and the error.
    """
    return read_yaml(path, Rules, InvalidConfig)


class RuleBook:
    """The rules of a file, reloaded when it changes. Thread-safe."""

    def __init__(
        self, path: Path, check_every_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """A file that is invalid now has no rules, and `error` says why."""
        self._file = WatchedFile(path, read_rules, check_every_s, clock, default=Rules())

    @property
    def error(self) -> str:
        """Why the file's latest content is not in force; empty: it is."""
        return self._file.error

    def holding(self, query: Query) -> list[Rule]:
        """The rules that hold for this request, in the order of the file."""
        return [rule for rule in self._file.value.rules if rule.when.holds(query)]
