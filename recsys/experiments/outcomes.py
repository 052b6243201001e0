"""What the users of each arm did: sums per user, from the lake's impression log and events.

The arm is the one that the impression log names. An action is attributed to the list whose `request_id` it carries,
once per item. A user seen in two arms of the experiment (after a change of its shares or salt) counts for neither. A
session ends after half an hour without a request. Days are UTC; a visit across midnight counts as two.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidData
from recsys.contracts.impressions import parse_exposures
from recsys.contracts.types import MS_PER_DAY, MS_PER_MINUTE, EventType
from recsys.lake.lake import EVENTS, IMPRESSIONS, TIME, days, read_day

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SESSION_GAP_MS = 30 * MS_PER_MINUTE
_NO_ARM, _CROSSED = -1, -2
_ACTIONS: Mapping[str, str] = {
    str(EventType.CLICK): "clicks",
    str(EventType.LIKE): "likes",
    str(EventType.PURCHASE): "purchases",
}
SUMS = (
    "users",  # 1 for each user: the denominator of metrics per user
    "lists",
    "impressions",
    "sessions",
    *_ACTIONS.values(),
    "dwell_s",
    "revenue",
    "distance",  # sum over lists of the share of pairs with different main categories
    "days",  # with a visit, except the last day, whose next day is unknown
    "returns",  # of those days, how many are followed by a visit on the next day
)


@dataclass(frozen=True)
class Metric:
    """A ratio of two sums over users."""

    numerator: str
    denominator: str
    meaning: str


METRICS: Mapping[str, Metric] = {
    "ctr": Metric("clicks", "impressions", "clicks per shown item"),
    "cvr": Metric("purchases", "clicks", "purchases per click"),
    "dwell_per_session_s": Metric("dwell_s", "sessions", "seconds of reading in a session"),
    "likes_per_list": Metric("likes", "lists", "likes per list"),
    "revenue_per_user": Metric("revenue", "users", "revenue per user"),
    "list_distance": Metric("distance", "lists", "share of pairs in a list of different main category"),
    "return_rate": Metric("returns", "days", "days with a visit that are followed by another such day"),
}


@dataclass
class Outcomes:
    """Arrays run over the users (n,). `arm` indexes `arms`; `shown_user`, `shown_item` (m,) run over the
    impressions."""

    arms: tuple[str, ...]
    shares: tuple[float, ...]  # planned shares of the users
    arm: Ints
    sums: Mapping[str, Floats]
    before: Mapping[str, Floats]  # the same sums over the days before the experiment
    crossed: int  # users seen in several arms, who are left out
    shown_user: Ints
    shown_item: Ints
    day: str  # the last day included


def first_impression(lake: Path, experiment: str) -> tuple[str, int] | None:
    """Day and time (Unix milliseconds) of the experiment's first impression; None without one."""
    for day in days(lake, IMPRESSIONS):
        rows = read_day(lake, day, IMPRESSIONS, ["arm"])  # by time
        texts = rows.column("arm").unique().to_pylist()
        inside = [text for text in texts if experiment in parse_exposures(text)]
        if inside:
            at = pc.index(pc.is_in(rows.column("arm"), value_set=pa.array(inside)), True).as_py()
            return day, rows.column(TIME)[at].as_py()
    return None


def first_day(lake: Path, experiment: str) -> str:
    """The day of the experiment's first impression.

    Raises:
        InvalidData: there is none.
    """
    found = first_impression(lake, experiment)
    if found is None:
        raise InvalidData(
            f"{lake}: no impression of an experiment {experiment!r}; GET /v1/experiments names those running"
        )
    return found[0]


def outcomes_by_day(lake: Path, experiment: str, last_day: str = "9999") -> Iterator[Outcomes]:
    """The outcomes up to the end of each day of the experiment.

    Raises:
        InvalidData: there is no impression of the experiment.
    """
    return (outcomes for _, outcomes in outcomes_by_step(lake, experiment, MS_PER_DAY, last_day))


def outcomes_by_step(
    lake: Path, experiment: str, step_ms: int, last_day: str = "9999"
) -> Iterator[tuple[int, Outcomes]]:
    """The time and the outcomes of each interim look: one per multiple of `step_ms`, which must divide a day.

    Raises:
        InvalidData: there is no impression of the experiment.
    """
    start = first_day(lake, experiment)
    tally = _Tally(experiment)
    before = _Tally("")
    for day in days(lake, EVENTS):
        if day < start:
            before.add_before(read_day(lake, day, EVENTS, _EVENT_COLUMNS))
    for day in days(lake, IMPRESSIONS):
        if start <= day <= last_day:
            shown = read_day(lake, day, IMPRESSIONS, _SHOWN_COLUMNS)
            events = read_day(lake, day, EVENTS, _EVENT_COLUMNS)
            for until_ms in _looks_in(shown, events, step_ms):
                partial = copy.deepcopy(tally)
                partial.add(_until(shown, until_ms), _until(events, until_ms))
                if partial.begun:
                    yield until_ms, partial.outcomes(before, day)
            tally.add(shown, events)
            yield _last_ms(shown, events) + 1, tally.outcomes(before, day)


_SHOWN_COLUMNS = ["request_id", "user_id", "item_id", "categories", "arm"]
_EVENT_COLUMNS = ["request_id", "user_id", "item_id", "type", "value"]


def _looks_in(shown: pa.Table, events: pa.Table, step_ms: int) -> range:
    """The multiples of the step between the first impression of the day and its last event."""
    first, last = shown.column(TIME)[0].as_py(), _last_ms(shown, events)
    return range((first // step_ms + 1) * step_ms, last + 1, step_ms)


def _last_ms(shown: pa.Table, events: pa.Table) -> int:
    return max(int(rows.column(TIME)[-1].as_py()) for rows in (shown, events) if rows.num_rows)


def _until(rows: pa.Table, until_ms: int) -> pa.Table:
    return rows.filter(pc.less(rows.column(TIME), until_ms))


class _Tally:
    """Sums per user, accumulated day by day."""

    def __init__(self, experiment: str) -> None:
        self._experiment = experiment
        self._users: dict[str, int] = {}
        self._items: dict[str, int] = {}
        self._arms: dict[str, float] = {}  # name → planned share
        self._arm = np.empty(0, np.int64)
        self._sums = {name: np.empty(0) for name in SUMS}
        self._requests: dict[str, int] = {}  # of the latest day → user
        self._yesterday: dict[str, int] = {}
        self._active = np.empty(0, np.int64)  # users of the latest day
        self._shown: list[tuple[Ints, Ints]] = []

    @property
    def begun(self) -> bool:
        """Whether an arm has been shown."""
        return bool(self._arms)

    def add(self, impressions: pa.Table, events: pa.Table) -> None:
        """Add one day, or the part of it that has passed."""
        arm = self._arm_of(impressions.column("arm"))
        inside = impressions.filter(pa.array(arm != _NO_ARM))
        user = self._codes(self._users, inside.column("user_id"))
        self._shown.append((user, self._codes(self._items, inside.column("item_id"))))
        self._grow()
        self._assign(user, arm[arm != _NO_ARM])
        self._add_day(inside, user, events)

    def add_before(self, events: pa.Table) -> None:
        """Add a day before the experiment: all users, from the events alone."""
        shown = events.filter(pc.equal(events.column("type"), str(EventType.IMPRESSION)))
        shown = shown.filter(pc.is_valid(shown.column("request_id")))
        user = self._codes(self._users, shown.column("user_id"))
        self._grow()
        self._add_day(shown, user, events)

    def outcomes(self, before: "_Tally", day: str) -> Outcomes:
        members = np.flatnonzero(self._arm >= 0)
        names = list(self._users)
        earlier = np.array([before._users.get(names[i], -1) for i in members], np.int64)
        order = sorted(self._arms)
        number = np.array([order.index(name) for name in self._arms], np.int64)
        place = np.full(len(names), -1, np.int64)
        place[members] = np.arange(len(members))
        user = np.concatenate([u for u, _ in self._shown])
        item = np.concatenate([i for _, i in self._shown])
        counted = place[user] >= 0
        sums = {name: values[members].copy() for name, values in self._sums.items()}
        sums["users"] = np.ones(len(members))
        return Outcomes(
            arms=tuple(order),
            shares=tuple(self._arms[name] for name in order),
            arm=number[self._arm[members]] if len(members) else members,
            sums=sums,
            before={name: _values_at(values, earlier) for name, values in before._sums.items()},
            crossed=int((self._arm == _CROSSED).sum()),
            shown_user=place[user[counted]],
            shown_item=item[counted],
            day=day,
        )

    def _arm_of(self, texts: pa.ChunkedArray) -> Ints:
        """(n,) index of each impression's arm; `_NO_ARM` outside the experiment."""
        encoded = texts.combine_chunks().dictionary_encode()
        index = []
        for text in encoded.dictionary.to_pylist():
            exposure = parse_exposures(text).get(self._experiment)
            if exposure is None:
                index.append(_NO_ARM)
                continue
            self._arms[exposure.arm] = exposure.propensity
            index.append(list(self._arms).index(exposure.arm))
        return np.array(index, np.int64)[np.asarray(encoded.indices)] if index else np.empty(0, np.int64)

    def _assign(self, user: Ints, arm: Ints) -> None:
        fresh = self._arm[user] == _NO_ARM
        self._arm[user[fresh]] = arm[fresh]
        self._arm[user[self._arm[user] != arm]] = _CROSSED

    def _add_day(self, shown: pa.Table, user: Ints, events: pa.Table) -> None:
        self._add("impressions", user)
        requests, first = _first_of_each(shown.column("request_id"))
        owner = user[first]
        self._add("lists", owner)
        self._add("sessions", owner[_session_starts(owner, _times(shown)[first])])
        if "categories" in shown.column_names:
            self._add("distance", owner, _distances(shown))
        self._yesterday, self._requests = self._requests, dict(zip(requests, owner.tolist(), strict=True))
        today = np.unique(user)
        self._add("days", self._active)
        self._add("returns", np.intersect1d(self._active, today))
        self._active = today
        self._count_actions(events)

    def _count_actions(self, events: pa.Table) -> None:
        known = self._yesterday | self._requests
        seen: set[tuple[str, str, str]] = set()
        columns = (events.column(name).to_pylist() for name in _EVENT_COLUMNS)
        for request, user_id, item, kind, value in zip(*columns, strict=True):
            user = known.get(request)
            if user is None or user != self._users.get(user_id):  # of no list, or of somebody else's
                continue
            if kind == EventType.IMPRESSION or (request, item, kind) in seen:
                continue
            seen.add((request, item, kind))
            if kind in _ACTIONS:
                self._sums[_ACTIONS[kind]][user] += 1
            if kind == EventType.DWELL:
                self._sums["dwell_s"][user] += (value or 0) / 1e3
            if kind == EventType.PURCHASE:
                self._sums["revenue"][user] += value or 0

    def _codes(self, known: dict[str, int], column: pa.ChunkedArray) -> Ints:
        encoded = column.combine_chunks().dictionary_encode()
        number = [known.setdefault(text, len(known)) for text in encoded.dictionary.to_pylist()]
        return np.array(number, np.int64)[np.asarray(encoded.indices)] if number else np.empty(0, np.int64)

    def _grow(self) -> None:
        more = len(self._users) - len(self._arm)
        self._arm = np.concatenate([self._arm, np.full(more, _NO_ARM)])
        self._sums = {name: np.concatenate([v, np.zeros(more)]) for name, v in self._sums.items()}

    def _add(self, name: str, user: Ints, amount: Floats | None = None) -> None:
        self._sums[name] += np.bincount(user, amount, minlength=len(self._arm))


def _first_of_each(requests: pa.ChunkedArray) -> tuple[list[str], Ints]:
    """The distinct requests and the first row of each, in order of appearance."""
    encoded = requests.combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), np.unique(np.asarray(encoded.indices), return_index=True)[1]


def _times(rows: pa.Table) -> Ints:
    return np.asarray(rows.column(TIME), dtype=np.int64)


def _session_starts(user: Ints, time_ms: Ints) -> Ints:
    """Indices of the lists that start a session."""
    order = np.lexsort((time_ms, user))
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(user[order]) != 0) | (np.diff(time_ms[order]) > SESSION_GAP_MS)
    return order[new]


def _distances(shown: pa.Table) -> Floats:
    """(lists,) share of the pairs of each list whose main categories differ; 0 for a list of one."""
    request = np.asarray(shown.column("request_id").combine_chunks().dictionary_encode().indices, np.int64)
    categories = shown.column("categories").to_pylist()
    main = pa.array([names[0] if names else "" for names in categories]).dictionary_encode()
    category = np.asarray(main.indices, np.int64)
    n = np.bincount(request).astype(np.float64)
    (owner, _), count = np.unique(np.stack([request, category]), axis=1, return_counts=True)
    same = np.bincount(owner, count * (count - 1.0), minlength=len(n))
    return np.asarray(np.where(n > 1, 1 - same / np.maximum(n * (n - 1), 1), 0.0))


def _values_at(values: Floats, places: Ints) -> Floats:
    return np.where(places >= 0, values[np.maximum(places, 0)], 0.0) if len(values) else np.zeros(len(places))
