"""What is left out of the training, against the rules spelt out in Python."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import product

import pyarrow as pa
import pytest

from recsys.contracts.events import Event
from recsys.contracts.merges import Merges, UserMerge
from recsys.contracts.types import (
    ENGAGEMENT,
    MS_PER_DAY,
    MS_PER_MINUTE,
    MS_PER_SECOND,
    NARROWED,
    EventType,
)
from tests.training.features.feature_rows import event_rows
from training.features.labels import LabelConfig, label
from training.features.trust import (
    JUDGED_COLUMNS,
    TALLY_SCHEMA,
    Verdicts,
    tally,
    trusted,
    trusted_examples,
    weights_of,
)

DAY_ONE = 20_000
START_MS = DAY_ONE * MS_PER_DAY
IMPRESSION, CLICK = EventType.IMPRESSION, EventType.CLICK


def rows_of(events: Sequence[Event]) -> pa.Table:
    return event_rows(events).select(JUDGED_COLUMNS)


def verdicts_of(events: Sequence[Event], merges: Merges | None = None, buckets: int = 3) -> Verdicts:
    """As the Spark job does: bucket by bucket of users."""
    users = sorted({e.user_id for e in events})
    home = (merges or Merges()).home_of
    parts: list[list[Event]] = [[] for _ in range(buckets)]
    for event in events:
        parts[users.index(home(event.user_id)) % buckets].append(event)
    tables = [tally(rows_of(part), merges or Merges()) for part in parts if part]
    return Verdicts.of(pa.concat_tables(tables))


class Log:
    """Events one after the other."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(
        self,
        kind: EventType,
        user: str,
        item: str,
        at_ms: int,
        request: str | None = None,
        value: float | None = None,
    ) -> None:
        number, time_ms = len(self.events), START_MS + at_ms
        self.events.append(Event(f"e{number}", kind, user, item, time_ms, request, value=value))

    def honest(self, users: int = 40, items: int = 8, share: int = 3) -> "Log":
        """Everybody is shown every item and clicks on one in `share`."""
        for user in range(users):
            for item in range(items):
                at_ms = (user * items + item) * MS_PER_MINUTE
                self.add(IMPRESSION, f"u{user}", f"i{item}", at_ms, f"r{user}")
                if (user + item) % share == 0:
                    self.add(CLICK, f"u{user}", f"i{item}", at_ms + 1, f"r{user}")
        return self

    def push(self, item: str, attackers: int, request: str | None = None) -> "Log":
        for n in range(attackers):
            self.add(CLICK, f"fake{n}", item, n * MS_PER_SECOND, request)
        return self

    def narrow(self, item: str, attackers: int) -> "Log":
        """Lists of an item alone, as a filter makes them, and a click on it."""
        for n in range(attackers):
            self.add(IMPRESSION, f"fake{n}", item, n * MS_PER_SECOND, f"f{n}", NARROWED)
            self.add(CLICK, f"fake{n}", item, n * MS_PER_SECOND + 1, f"f{n}")
        return self

    def narrow_before_midnight(self, item: str, attackers: int, later_ms: int) -> "Log":
        """Such lists ten minutes before midnight, and the clicks later; then honest ones of a day that is judged."""
        asked_ms = MS_PER_DAY - 10 * MS_PER_MINUTE
        for n in range(attackers):
            self.add(IMPRESSION, f"fake{n}", item, asked_ms, f"f{n}", NARROWED)
            self.add(CLICK, f"fake{n}", item, asked_ms + later_ms, f"f{n}")
        for n, other in product(range(10), ("i2", "i3", "i4")):
            self.add(IMPRESSION, f"u{n}", other, MS_PER_DAY, "r")
            self.add(CLICK, f"u{n}", other, MS_PER_DAY + 1, "r")
        return self

    def robot(self, clicks: int = 1_000) -> "Log":
        """A hundred clicks per second, each on what was shown."""
        for n in range(clicks):
            self.add(IMPRESSION, "robot", f"i{n % 8}", n * 10, "r")
            self.add(CLICK, "robot", f"i{n % 8}", n * 10, "r")
        return self


def kept(events: Sequence[Event], merges: Merges | None = None) -> set[str]:
    found = trusted(rows_of(events), verdicts_of(events, merges), merges or Merges())
    return set(found.column("event_id").to_pylist())


def labelled(events: Sequence[Event], verdicts: Verdicts) -> set[tuple[str, int]]:
    """The examples, each with whether it was clicked."""
    rows = event_rows(events)
    end_ms = START_MS + 9 * MS_PER_DAY
    found = trusted_examples(label(rows, LabelConfig(START_MS, end_ms, negatives=0)), rows, verdicts)
    return set(zip(found["example_id"].to_pylist(), found["click"].to_pylist(), strict=True))


def engaged(events: Sequence[Event]) -> set[str]:
    return {e.event_id for e in events if e.type in ENGAGEMENT}


def test_an_honest_log_loses_nothing() -> None:
    log = Log().honest().push("i1", 3)  # as from a search: few
    assert not verdicts_of(log.events)
    assert kept(log.events) == engaged(log.events)


@pytest.mark.parametrize("request_id", [None, "r1", "made-up"])
def test_clicks_on_what_was_not_shown_are_left_out_whatever_they_name(request_id: str | None) -> None:
    log = Log().honest()
    honest = engaged(log.events)
    log.add(IMPRESSION, "u1", "pushed", 0, "r1")
    log.push("pushed", 20, request_id)
    log.add(CLICK, "u1", "pushed", MS_PER_MINUTE, "r1")
    verdicts = verdicts_of(log.events)
    assert verdicts.items.to_pylist() == [{"item_id": "pushed", "day": DAY_ONE}]
    assert verdicts.left_out["clicks_without_impressions"] == 20
    assert kept(log.events) == honest | {log.events[-1].event_id}


def test_a_suspect_weighs_as_much_online_as_was_backed_in_its_week() -> None:
    log = Log().honest()
    log.add(CLICK, "old", "i1", -8 * MS_PER_DAY)
    log.push("i1", 30)
    backed = sum(e.item_id == "i1" and e.user_id.startswith("u") and e.type is CLICK for e in log.events)
    tallies = tally(rows_of(log.events))
    weight = 1_024 * backed // (backed + 30)
    verdicts, last = Verdicts.of(tallies), DAY_ONE
    assert weights_of(tallies, verdicts, last) == {"i1": (weight, weight)}
    assert weights_of(tallies, verdicts, last + 6) == {"i1": (weight, weight)}
    assert weights_of(tallies, verdicts, last + 7) == {}, "its week is over"
    assert weights_of(tallies, Verdicts(), last) == {}


def test_a_verdict_ends_with_its_day() -> None:
    log = Log().honest().push("pushed", 20)
    log.add(CLICK, "u1", "pushed", MS_PER_DAY)
    assert log.events[-1].event_id in kept(log.events)


def test_a_log_without_impressions_is_not_judged() -> None:
    log = Log().push("i1", 500).push("i2", 20)
    assert kept(log.events) == engaged(log.events)


def test_a_robots_day_is_left_out_and_its_examples() -> None:
    log = Log().honest().robot()
    verdicts = verdicts_of(log.events)
    assert verdicts.of_examples(DAY_ONE) == ["robot"]
    assert verdicts.of_examples(DAY_ONE + 1) == []
    stays = kept(log.events)
    assert "robot" not in {e.user_id for e in log.events if e.event_id in stays}
    rows = rows_of(log.events)
    examples = trusted_examples(rows.append_column("example_id", rows["event_id"]), rows, verdicts)
    assert set(examples.column("user_id").to_pylist()) == {f"u{n}" for n in range(40)}


def test_a_list_that_its_request_narrowed_backs_no_click_and_labels_no_suspect() -> None:
    log = Log().honest()
    honest = list(log.events)
    log.narrow("i1", 20)
    verdicts = verdicts_of(log.events)
    assert verdicts.items.to_pylist() == [{"item_id": "i1", "day": DAY_ONE}]
    left_out = verdicts.left_out
    assert (left_out["clicks_without_impressions"], left_out["narrowed_impressions"]) == (20, 20)
    assert verdicts.of_examples(DAY_ONE) == ["\x1fi1"]
    assert kept(log.events) == engaged(honest)
    assert labelled(log.events, verdicts) == labelled(honest, Verdicts())


@pytest.mark.parametrize("later", [1, 20])
def test_a_click_after_midnight_and_events_sent_twice_change_nothing(later: int) -> None:
    log = Log().honest()
    honest = list(log.events)
    log.narrow_before_midnight("i1", 20, later * MS_PER_MINUTE)
    fakes = [e for e in log.events if e.user_id.startswith("fake")]
    verdicts = verdicts_of([*log.events, *fakes])
    assert verdicts.left_out["narrowed_impressions"] == 20
    assert verdicts.of_examples(DAY_ONE) == ["\x1fi1"]
    assert not labelled(log.events, verdicts) & {(e.event_id, 1) for e in fakes}
    assert labelled(honest, Verdicts()) <= labelled(log.events, verdicts)


def test_what_followed_a_list_that_is_left_out_is_no_other_lists() -> None:
    log = Log().honest().narrow("i1", 20)
    log.add(IMPRESSION, "fake0", "i1", MS_PER_MINUTE, "ordinary")
    log.add(IMPRESSION, "fake0", "i1", 2 * MS_PER_MINUTE, "f", NARROWED)
    log.add(CLICK, "fake0", "i1", 3 * MS_PER_MINUTE)
    ordinary, _, _ = (e.event_id for e in log.events[-3:])
    log.add(IMPRESSION, "fake1", "i1", 2 * MS_PER_MINUTE, "f", NARROWED)
    log.add(EventType.RATING, "fake1", "i1", 3 * MS_PER_MINUTE, value=5.0)
    found = labelled(log.events, verdicts_of(log.events))
    assert (ordinary, 0) in found
    assert not {event_id for event_id, _ in found} & {e.event_id for e in log.events[-2:]}


def test_a_few_who_filter_are_no_suspects() -> None:
    log = Log().honest().narrow("i1", 3)
    verdicts = verdicts_of(log.events)
    assert not verdicts
    assert verdicts.left_out["narrowed_impressions"] == 0
    assert kept(log.events) == engaged(log.events)
    assert labelled(log.events, verdicts) == labelled(log.events, Verdicts())


def test_what_was_shown_to_a_visitor_backs_the_user_who_logs_in() -> None:
    log = Log().honest()
    merges = []
    for n in range(10):
        log.add(IMPRESSION, f"visitor{n}", "new", 0, "r")
        log.add(CLICK, f"known{n}", "new", MS_PER_MINUTE)
        merges.append(UserMerge(f"visitor{n}", f"known{n}", START_MS + 1))
    assert not verdicts_of(log.events, Merges(merges))
    assert verdicts_of(log.events)  # they would be strangers to each other


def suspects(events: Sequence[Event]) -> Iterator[tuple[str, int]]:
    """The items' days, by the rules in words."""
    first_ms: dict[tuple[str, str], int] = {}
    for e in events:
        if e.type is IMPRESSION and e.value != NARROWED:
            pair = e.user_id, e.item_id
            first_ms[pair] = min(first_ms.get(pair, e.event_time_ms), e.event_time_ms)
    for day in {e.event_time_ms // MS_PER_DAY for e in events}:
        users: dict[tuple[str, bool], set[str]] = defaultdict(set)
        for e in events:
            if e.type in ENGAGEMENT and e.event_time_ms // MS_PER_DAY == day:
                was_shown = first_ms.get((e.user_id, e.item_id), e.event_time_ms + 1) <= e.event_time_ms
                users[e.item_id, was_shown].add(e.user_id)
        sums = {side: sum(len(u) for (_, s), u in users.items() if s is side) for side in (True, False)}
        if sums[False] > sums[True]:
            continue
        common = sum(
            min(len(users[i, False]), len(users[i, True])) for i in {item for item, _ in list(users)}
        )
        rate = common * 65_536 // sums[True]
        for item, _ in [key for key in users if not key[1]]:
            backed = len(users[item, True])
            if len(users[item, False]) > 3 + 4 * rate * backed // 65_536:
                yield item, day


@pytest.mark.parametrize("seed", range(5))
def test_random_logs_are_judged_by_the_rules(seed: int) -> None:
    rng = random.Random(seed)
    log = Log()
    for _ in range(500):
        at_ms = rng.randrange(3 * MS_PER_DAY)
        user, item = f"u{rng.randrange(40)}", f"i{rng.randrange(12)}"
        if rng.random() < (0.9 if int(item[1:]) < 10 else 0.0):
            mark = rng.choice([None, None, None, NARROWED])
            log.add(IMPRESSION, user, item, max(at_ms - 1, 0), "r", mark)
        log.add(rng.choice([CLICK, EventType.LIKE, EventType.DWELL]), user, item, at_ms)
    found = verdicts_of(log.events, buckets=rng.randrange(1, 5))
    rows = {(row["item_id"], row["day"]) for row in found.items.to_pylist()}
    assert rows == set(suspects(log.events))
    assert rows  # the test shows something
    assert len(engaged(log.events)) - len(kept(log.events)) == found.left_out["clicks_without_impressions"]


def test_nothing_of_nobody() -> None:
    assert tally(rows_of([])).schema == TALLY_SCHEMA
    assert not Verdicts.of(tally(rows_of([])))
