"""Guess the mapping of tables from the names of their columns and a sample of their cells.

What is guessed is a mapping like any other: written as YAML, shown with what it is unsure of, and changed by hand.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import BaseModel

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import EventType
from recsys.datasets import guess_words as words
from recsys.datasets.column_profile import Profile
from recsys.datasets.guess_catalogue import items_of, users_of
from recsys.datasets.guess_roles import Picker
from recsys.datasets.mapping import (
    EventRule,
    EventTable,
    Files,
    ItemTable,
    Mapping,
    TimeColumn,
    UserTable,
)
from recsys.datasets.sampling import SUFFIXES, Sample, samples

FIRST = "2026-01-01"  # of a log without times
_SHOWN, _WIDEST = 3, 40  # examples of a column, and their characters
_MAX_RATING_VALUES = 101


class Used(NamedTuple):
    """A column, what the mapping takes it for, and cells of it."""

    column: str
    role: str
    examples: list[str]


@dataclass(frozen=True)
class Guess:
    """A mapping of the files in `folder`. doubts: what a person should look at."""

    folder: Path
    mapping: Mapping
    doubts: list[str]
    columns: dict[str, list[Used]] = field(default_factory=dict)  # of each table, that the mapping reads
    ignored: list[str] = field(default_factory=list)  # files that are no table of it

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        mapping = self.mapping.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
        columns = {table: [used._asdict() for used in of] for table, of in self.columns.items()}
        return {"mapping": mapping, "check": self.doubts, "columns": columns, "not_read": self.ignored}

    def to_yaml(self) -> str:
        """As `recsys data import --mapping` reads it, the doubts as comments."""
        content = self.mapping.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
        comments = "".join(f"# check: {doubt}\n" for doubt in self.doubts)
        text = yaml.safe_dump(
            content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
        )
        return f"# Guessed from the columns; docs/data.md describes every key.\n{comments}{text}"


def guess_mapping(paths: Sequence[Path]) -> Guess:
    """Guess from files, or from the tables of a folder.

    Raises:
        InvalidData: there is no table, or none has a column of users and one of items.
    """
    folder, files = _files(paths)
    tables = samples(folder, files, strict=not paths[0].is_dir())
    log = _log_of(tables)
    doubts: list[str] = []
    events = _events(log, doubts)
    others = [table for table in tables if table is not log]
    items = items_of(log, others, events, doubts)
    users = users_of(log, others, events)
    mapping = Mapping(events=events, items=items, users=users)
    mapped = {name: table for name, table in mapping if table is not None}
    used = {name for table in mapped.values() for name in table.files}
    ignored = sorted({path.relative_to(folder).as_posix() for path in files} - used)
    columns = {
        name: _used(next(sample for sample in tables if sample.files.files == table.files), table)
        for name, table in mapped.items()
    }
    return Guess(folder, mapping, doubts, columns, ignored)


def _used(sample: Sample, table: EventTable | ItemTable | UserTable) -> list[Used]:
    """The columns in the file's order, each with all that it is used for."""
    roles: dict[str, list[str]] = {}
    for role, value in table:
        for name in _names(value) if role not in Files.model_fields else ():
            if name in sample.columns and role not in roles.setdefault(name, []):
                roles[name].append(role)
    examples = {name: list(dict.fromkeys(filter(None, cells))) for name, cells in sample.columns.items()}
    return [
        Used(name, ", ".join(roles[name]), [cell[:_WIDEST] for cell in examples[name][:_SHOWN]])
        for name in sample.columns
        if name in roles
    ]


def _names(value: object) -> Iterator[str]:
    """The texts in a part of a mapping; some of them name columns."""
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude={"unit", "type", "equals"})
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (name for part in value.values() for name in _names(part))
    elif isinstance(value, Sequence):
        yield from (name for part in value for name in _names(part))


def _files(paths: Sequence[Path]) -> tuple[Path, list[Path]]:
    """The folder, and the files of tables in it."""
    for path in paths:
        if not path.exists():
            raise InvalidData(f"{path}: no such file or folder")
    if len(paths) == 1 and paths[0].is_dir():
        folder = paths[0]
        found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            raise InvalidData(f"{folder}: no table; looked for files named *{', *'.join(SUFFIXES)}")
        return folder, found
    folders = {path.parent for path in paths}
    if len(folders) > 1 or any(path.is_dir() for path in paths):
        raise InvalidData("name one folder, or files of one folder")
    return folders.pop(), list(paths)


def _log_of(tables: Sequence[Sample]) -> Sample:
    """The table of what users did: it has users and items, and of several such tables most rows."""
    logs = [table for table in tables if _is_log(table)]
    if not logs:
        names = "; ".join(f"{table.files.files[0]}: {', '.join(table.columns)}" for table in tables)
        raise InvalidData(
            f"no table has a column of users and one of items that can be told from its name ({names}); "
            "write a mapping: docs/data.md"
        )
    return max(logs, key=lambda table: table.rows)


def _is_log(table: Sample) -> bool:
    pick = Picker(table.profiles)
    if not table.header:
        ids = pick.ids()
        return len(ids) >= 2 and not ids[0].unique
    user = pick.take(words.USER) or pick.take(words.SESSION)
    item = pick.take(words.ITEM)
    return bool(user and item and not user.unique)


def _events(log: Sample, doubts: list[str]) -> EventTable:
    pick = Picker(log.profiles)
    time = _time(log, pick, doubts)
    user, item = _user_and_item(log, pick, doubts)
    request = pick.take(words.REQUEST, lambda p: not (p.numeric and p.values))  # the number of a page is none
    position = pick.take(words.POSITION, _is_position)
    rules, shown = _rules(pick, doubts, listed=bool(request or position))
    if position and position.low >= 1:
        doubts.append(f"position: {position.name} begins at {position.low:.0f} and is taken to count from 1")
    return EventTable(
        **log.files.model_dump(exclude_defaults=True),
        user=user.name,
        item=item.name,
        time=time,
        events=rules,
        request=[request.name] if request and shown else [],
        position=position.name if position and shown else None,
        first_position=int(bool(position and shown and position.low >= 1)),
    )


def _time(log: Sample, pick: Picker, doubts: list[str]) -> TimeColumn:
    found = (
        pick.take(words.TIME, lambda p: p.unit is not None)
        or pick.only(lambda p: p.unit == "iso")
        or pick.only(lambda p: p.unit is not None and p.words[-1:] == ("at",))  # rated_at
    )
    if found is None and not log.header:
        found = pick.only(lambda p: p.unit is not None and p.distinct > 1)
    if found and found.unit:
        return TimeColumn(column=found.name, unit=found.unit)
    doubts.append("time: no column of times; the rows are taken in their order, a second apart")
    return TimeColumn.model_validate({"unit": "rows", "first": FIRST})


def _user_and_item(log: Sample, pick: Picker, doubts: list[str]) -> tuple[Profile, Profile]:
    if not log.header:
        first, second = pick.ids()[:2]
        pick.use(first, second)
        doubts.append(f"user, item: the file has no header; taken in this order: {first.name}, {second.name}")
        return first, second
    item = pick.take(words.ITEM)
    user = pick.take(words.USER)
    if user is None:
        user = pick.take(words.SESSION)
        doubts.append("user: no column of users; each session is one")
    if user is None or item is None:
        raise InvalidData("the table has no users or no items")  # `_is_log` has found both
    return user, item


def _is_position(column: Profile) -> bool:
    return column.whole and column.low >= 0 and column.high < 1_000


def _rules(pick: Picker, doubts: list[str], listed: bool) -> tuple[list[EventRule], bool]:
    """The rules, and whether impressions are among them. `listed`: rows say which list they were in."""
    price = pick.take(words.PRICE, lambda p: p.numeric and p.low >= 0)
    action = pick.take(words.ACTION, lambda p: bool(p.values) and not p.numeric)
    if action is None and pick.headless:
        action = pick.only(
            lambda p: bool(p.values) and all(_plain(value) in words.ACTIONS for value in p.values)
        )
    if action is not None:
        return _by_action(action, price, pick, doubts, listed)
    rating = pick.take(words.RATING, lambda p: p.ordinal or (p.numeric and p.distinct <= _MAX_RATING_VALUES))
    if rating is None and pick.headless:
        rating = pick.only(lambda p: p.ordinal)
    if rating is not None:
        return [_rating(rating, doubts)], False
    rules = _by_flags(pick, price)
    shown = any(rule.type is EventType.IMPRESSION for rule in rules)
    dwell = pick.take(words.DWELL, lambda p: p.numeric and "ms" in p.words)
    if dwell is not None:
        rules.append(EventRule(type=EventType.DWELL, when=dwell.name, value=dwell.name))
    if not rules or all(rule.type is EventType.DWELL for rule in rules):
        kind, value = (EventType.PURCHASE, price.name) if price else (EventType.CLICK, None)
        doubts.append(f"events: no column says what was done; each row is taken for a {kind}")
        rules.insert(0, EventRule(type=kind, value=value))
    return rules, shown


def _by_action(
    action: Profile, price: Profile | None, pick: Picker, doubts: list[str], listed: bool
) -> tuple[list[EventRule], bool]:
    known = {value: words.ACTIONS.get(_plain(value)) for value in action.values}
    unknown = sorted(value for value, kind in known.items() if kind is None)
    if unknown:
        share = sum(action.values[value] for value in unknown) / action.filled
        doubts.append(f"events: {action.name} = {', '.join(unknown)} is left out ({share:.0%} of the rows)")
    views = [value for value, kind in known.items() if kind is EventType.VIEW]
    if EventType.CLICK not in known.values():  # then a view is what there is of a choice
        known |= dict.fromkeys(views, EventType.CLICK)
    elif listed:
        for value in (v for v in views if _plain(v) in ("view", "viewed", "pv")):
            known[value] = EventType.IMPRESSION
            doubts.append(
                f"events: {action.name} = {value} is taken for an impression, since there are clicks, too"
            )
    rating = pick.take(words.RATING, lambda p: p.numeric) if EventType.RATING in known.values() else None
    rules = []
    for value, kind in sorted(
        known.items(), key=lambda pair: list(EventType).index(pair[1]) if pair[1] else 99
    ):
        if kind is None or (kind is EventType.RATING and rating is None):
            continue
        priced = price.name if price and kind in (EventType.PURCHASE, EventType.ADD_TO_CART) else None
        stars = rating.name if rating and kind is EventType.RATING else None
        rules.append(EventRule(type=kind, when=action.name, equals=value, value=stars or priced))
    if not rules:
        doubts.append(f"events: no value of {action.name} is known; each row is taken for a click")
        rules = [EventRule(type=EventType.CLICK)]
    return rules, any(rule.type is EventType.IMPRESSION for rule in rules)


def _rating(rating: Profile, doubts: list[str]) -> EventRule:
    """1 to 5 stars need no scale; of another one, the worst and the best value are guessed from what is there."""
    scale = None
    if rating.high > 5 or rating.low < 0 or rating.high <= 1:
        best = next((top for top in (1.0, 10.0, 100.0) if rating.high <= top), rating.high)
        worst = min(0.0, rating.low) if rating.low < 1 else 1.0
        scale = (worst, best)
        doubts.append(f"rating: {rating.name} is taken to go from {worst:g} (worst) to {best:g} (best)")
    return EventRule(type=EventType.RATING, value=rating.name, scale=scale)


def _by_flags(pick: Picker, price: Profile | None) -> list[EventRule]:
    """Columns of labels: a click that may be 0 makes each row an impression."""
    rules: list[EventRule] = []
    for column in [p for p in pick.left if p.binary]:
        core = "".join(word for word in column.words if word not in words.GENERIC)
        kind = words.ACTIONS.get("".join(column.words), words.ACTIONS.get(core))
        if kind is None or kind is EventType.IMPRESSION or any(rule.type is kind for rule in rules):
            continue
        pick.use(column)
        priced = price.name if price and kind in (EventType.PURCHASE, EventType.ADD_TO_CART) else None
        rules.append(EventRule(type=kind, when=column.name, value=priced))
    if not any(rule.type is EventType.CLICK for rule in rules):  # then a view is what there is of a choice
        rules = [
            r.model_copy(update={"type": EventType.CLICK}) if r.type is EventType.VIEW else r for r in rules
        ]
    rules.sort(key=lambda rule: list(EventType).index(rule.type))
    if any(rule.type in (EventType.CLICK, EventType.PURCHASE) for rule in rules):
        rules.insert(0, EventRule(type=EventType.IMPRESSION))
    return rules


def _plain(value: str) -> str:
    return "".join(c for c in value.lower() if c.isalnum())
