"""Which tables describe the items and the users of a log, and what their columns say."""

from collections.abc import Sequence

from recsys.datasets import guess_words as words
from recsys.datasets.column_profile import Profile
from recsys.datasets.guess_roles import Picker, Test
from recsys.datasets.guess_titles import take_titles
from recsys.datasets.mapping import EventTable, ItemTable, TimeColumn, UserTable
from recsys.datasets.sampling import ROWS, Sample

_SEPARATORS = ("|", ";", ",", "/", ">")
_FEW = 40
_SPLITS, _RECURS = 0.1, 1.1  # share of the cells that a separator must split; how often a part must occur
_OVERLAP = 0.2  # share of the log's sampled ids that the other table must have


def items_of(
    log: Sample, others: Sequence[Sample], events: EventTable, doubts: list[str]
) -> ItemTable | None:
    """The table of items, if there is one; else the log itself, where its rows describe the items."""
    for table in others:
        if (key := _key(log, events.item, table, words.ITEM)) is not None:
            return _items(table, key, set(), doubts)
    used = set(events.used())
    found = _items(log, events.item, used, [])
    return found if log.header and (found.title or found.categories or found.creator) else None


def users_of(log: Sample, others: Sequence[Sample], events: EventTable) -> UserTable | None:
    """The table of users, if there is one."""
    for table in others:
        if (key := _key(log, events.user, table, words.USER)) is not None:
            attributes = {p.name: p.name for p in table.profiles if p.name != key and 1 < p.distinct <= _FEW}
            return UserTable(**table.files.model_dump(exclude_defaults=True), user=key, attributes=attributes)
    return None


def _key(log: Sample, column: str, table: Sample, vocabulary: Sequence[str]) -> str | None:
    """The column of `table` that has the ids of the log's `column`, once each."""
    wanted = {cell for cell in log.columns[column] if cell}
    best, most = None, _OVERLAP
    for candidate in Picker(table.profiles).left:
        cells = {cell for cell in table.columns[candidate.name] if cell}
        shared = len(wanted & cells) / max(1, min(len(wanted), len(cells)))
        named = candidate.name == column or bool(Picker([candidate]).take(vocabulary))
        # numbers from 1 on are the ids of many tables: the name must say whose
        if (
            shared > most
            and candidate.distinct >= 0.9 * candidate.filled
            and (named or not candidate.numeric)
        ):
            best, most = candidate.name, shared
    if best is None and max(log.rows, table.rows) >= ROWS:  # the samples of large tables need not meet
        return next(
            (p.name for p in table.profiles if p.name == column and p.distinct >= 0.9 * p.filled), None
        )
    return best


def _items(table: Sample, key: str, used: set[str], doubts: list[str]) -> ItemTable:
    pick = Picker([p for p in table.profiles if p.name not in used and p.name != key])
    starts = _named(pick, words.AVAILABLE_FROM, lambda p: p.unit is not None)
    ends = _named(pick, words.AVAILABLE_UNTIL, lambda p: p.unit is not None)
    regions = _named(pick, words.REGIONS, lambda p: not p.numeric)
    categories = pick.take(words.CATEGORIES)
    title, titles = take_titles(pick, key, doubts)
    creator = pick.take(words.CREATOR)
    created = pick.take(words.CREATED, lambda p: p.unit is not None)
    price = pick.take(words.PRICE, lambda p: p.numeric)
    separator = separator_of(table.columns[categories.name]) if categories else "|"
    if categories and separator != "|":
        doubts.append(f"categories: {categories.name} is split at {separator!r}")
    if regions:
        doubts.append(f"regions: an item is shown only to requests of the regions in {regions.name}")
    return ItemTable(
        **table.files.model_dump(exclude_defaults=True),
        item=key,
        title=title,
        titles=titles,
        categories=categories.name if categories else None,
        separator=separator,
        creator=creator.name if creator else None,
        created=_time_of(created),
        available_from=_time_of(starts),
        available_until=_time_of(ends),
        regions=regions.name if regions else None,
        attributes=_attributes(price),
    )


def _named(pick: Picker, names: frozenset[str], test: Test) -> Profile | None:
    """The column with one of these names: what hides items is not guessed from a part of a name."""
    found = next((p for p in pick.left if "".join(p.words) in names and test(p)), None)
    if found is not None:
        pick.use(found)
    return found


def _time_of(column: Profile | None) -> TimeColumn | None:
    return TimeColumn(column=column.name, unit=column.unit) if column and column.unit else None


def _attributes(price: Profile | None) -> dict[str, str]:
    return {"price": price.name} if price else {}


def separator_of(cells: Sequence[str | None]) -> str:
    """The one whose parts recur most in different cells: "Kitchen/Mugs" and "Kitchen/Pans" share one."""
    texts = {cell for cell in cells if cell}
    best, most = "|", _RECURS
    for separator in _SEPARATORS:
        if sum(separator in text for text in texts) < _SPLITS * len(texts):
            continue
        parts = [part.strip() for text in texts for part in text.split(separator)]
        if (recurs := len(parts) / len(set(parts))) > most:
            best, most = separator, recurs
    return best
