"""The report of an import or a validation, as JSON and as tables."""

from collections import Counter
from dataclasses import asdict, astuple, dataclass, field, fields
from typing import Any

from recsys.contracts.types import GOOD_STARS, MAX_STARS
from recsys.datasets.base import Batch, Broken, Tally

_SHOWN = 10


@dataclass
class ImportReport:
    """Counts of one import. Events are counted without duplicates."""

    dataset: str
    source: str = ""
    attribution: str = "auto"
    dry_run: bool = False
    shift_weeks: int = 0
    items: int = 0
    users: int = 0  # in the table of users
    active_users: int = 0  # with events
    events_by_type: Counter[str] = field(default_factory=Counter)
    events_by_day: dict[str, Counter[str]] = field(default_factory=dict)  # day → type → events
    duplicates_by_type: Counter[str] = field(default_factory=Counter)
    duplicate_items: int = 0
    duplicate_users: int = 0
    files: dict[str, dict[str, Tally]] = field(default_factory=dict)  # table → file → what became of its rows
    not_read: list[str] = field(default_factory=list)  # files of the folder that no table reads
    guessed_units: Counter[str] = field(default_factory=Counter)  # "file: column: unit" → times
    best_stars: float | None = None  # the highest value of a rating
    overwritten_items: int = 0  # rows of other data sets
    overwritten_users: int = 0
    outdated_items: int = 0  # rows that are older than a change through the API, and are left out
    outdated_users: int = 0
    unknown_items: Counter[str] = field(default_factory=Counter)  # item id → events that name it
    broken_by_reason: Counter[str] = field(default_factory=Counter)  # "file: column: reason" → rows
    first_broken: list[Broken] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def events(self) -> int:
        return self.events_by_type.total()

    @property
    def broken(self) -> int:
        return self.broken_by_reason.total()

    @property
    def duplicates(self) -> int:
        return self.duplicates_by_type.total()

    @property
    def notes(self) -> list[str]:
        """What is likely to be wrong with the mapping, although every row can be read."""
        rows = [f"{where}, in {count:,} rows" for where, count in self.guessed_units.items()]
        return [f"{where}; read so; correct the mapping's `unit`" for where in rows] + self._of_stars()

    def _of_stars(self) -> list[str]:
        best = self.best_stars
        if best is None or GOOD_STARS <= best <= MAX_STARS:
            return []
        scale = "the mapping's `scale` says which values mean worst and best, such as [0, 1] or [1, 10]"
        if best > MAX_STARS:
            return [f"a rating has {best:g} stars, {MAX_STARS:g} are the most: {scale}"]
        return [
            f"no rating reaches {GOOD_STARS:g} stars, the best has {best:g}; there is no positive one: {scale}"
        ]

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON, with the most frequent unknown items instead of all."""
        content = dict(vars(self))  # asdict does not support Counter
        content["files"] = {
            table: {file: asdict(tally) for file, tally in files.items()}
            for table, files in self.files.items()
        }
        content["first_broken"] = [asdict(row) for row in self.first_broken]
        content["unknown_items"] = {
            "items": len(self.unknown_items),
            "events": self.unknown_items.total(),
            "most_frequent": dict(self.unknown_items.most_common(_SHOWN)),
        }
        totals: dict[str, Any] = {"events": self.events, "duplicates": self.duplicates, "broken": self.broken}
        totals["notes"] = self.notes
        return {"dataset": content.pop("dataset"), **totals, **content}

    def kept_rows(self, table: str) -> int:
        return sum(tally.kept for tally in self.files.get(table, {}).values())

    def note(self, table: str, batch: Batch) -> None:
        """Count what became of the rows of a batch of that table."""
        self.files.setdefault(table, {}).setdefault(batch.file, Tally()).add(batch.tally)
        self.guessed_units.update(batch.guessed_units)
        self.first_broken += batch.broken[: max(0, _SHOWN - len(self.first_broken))]
        for row in batch.broken:
            self.broken_by_reason[": ".join(filter(None, (row.file, row.column, row.reason)))] += 1

    def tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[object, ...]]]]:
        """(title, columns, rows) of each table to print."""
        types = sorted(self.events_by_type)
        days = [(day, *(f"{count[kind]:,}" for kind in types)) for day, count in self.events_by_day.items()]
        if len(days) > 2 * _SHOWN:
            days = [*days[:_SHOWN], (f"… {len(days) - 2 * _SHOWN} more", *[""] * len(types)), *days[-_SHOWN:]]
        total = ("total", *(f"{self.events_by_type[kind]:,}" for kind in types))
        summary: list[tuple[object, ...]] = [
            ("items", f"{self.items:,}"),
            ("users with events", f"{self.active_users:,}"),
            ("users with attributes", f"{self.users:,}"),
            ("events", f"{self.events:,}"),
            ("duplicate events, dropped", _by_type(self.duplicates_by_type)),
            ("duplicate items and users, dropped", _pair(self.duplicate_items, self.duplicate_users)),
            (
                "items and users overwritten",
                _pair(self.overwritten_items, self.overwritten_users),
            ),
            ("items and users changed since then", _pair(self.outdated_items, self.outdated_users)),
            ("items not in the catalogue", _unknown(self.unknown_items)),
            ("broken rows", f"{self.broken:,}"),
            ("files not read", ", ".join(self.not_read) or "none"),
            ("weeks shifted", self.shift_weeks),
            ("seconds", f"{self.seconds:.1f}"),
        ]
        tables: list[tuple[str, tuple[str, ...], list[tuple[object, ...]]]] = [
            (f"data set {self.dataset}", ("", ""), summary),
            ("rows by file", ("table", "file", *_TALLY), self._by_file()),
            ("events by day", ("day (UTC)", *types), [*days, total]),
        ]
        if self.notes:
            tables.append(("notes", ("",), [(note,) for note in self.notes]))
        if self.broken:
            reasons = [(reason, f"{rows:,}") for reason, rows in self.broken_by_reason.most_common(_SHOWN)]
            tables.append(("broken rows by reason", ("file: column: reason", "rows"), [*reasons]))
            firsts = [(b.file, b.row, b.column, b.reason, b.cell) for b in self.first_broken]
            tables.append(("first broken rows", ("file", "row", "column", "reason", "cell"), [*firsts]))
        return tables

    def _by_file(self) -> list[tuple[object, ...]]:
        return [
            (table, file, *(f"{count:,}" for count in astuple(tally)))
            for table, files in self.files.items()
            for file, tally in files.items()
        ]


_TALLY = tuple(count.name for count in fields(Tally))


def _pair(items: int, users: int) -> str:
    return f"{items:,} and {users:,}"


def _by_type(counts: Counter[str]) -> str:
    parts = ", ".join(f"{kind} {count:,}" for kind, count in sorted(counts.items()))
    return f"{counts.total():,}" + (f" ({parts})" if parts else "")


def _unknown(counts: Counter[str]) -> str:
    if not counts:
        return "0"
    return f"{len(counts):,} in {counts.total():,} events, most often {', '.join(i for i, _ in counts.most_common(3))}"
