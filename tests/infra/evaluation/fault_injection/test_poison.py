"""What the fake users of `recsys drill poison` may do, what is left out of it, and how the drill tells who wins."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from infra.evaluation.fault_injection.poison.attacks import ATTACKS, Scene, with_tokens
from infra.evaluation.fault_injection.poison.drill import Cell, PoisonDrill, result
from infra.evaluation.fault_injection.poison.simulated import CLEAN, Defence, Judged, Played
from recsys.contracts.events import Event
from recsys.contracts.types import MS_PER_DAY, NARROWED, EventType
from recsys.lake.lake import events_table
from recsys.simulation.world import WorldConfig, create_world
from training.features.trust import JUDGED_COLUMNS, Verdicts, tally

WORLD = create_world(WorldConfig(users=200, items=100, days=8, new_items_per_day=0))
NOW_MS = WORLD.config.start_ms + 7 * MS_PER_DAY
ALIVE = WORLD.alive(NOW_MS)
SCENE = Scene(WORLD, 12, ALIVE[-3:], ALIVE[:50], NOW_MS - 3 * MS_PER_DAY, NOW_MS)
TARGETS = {f"i{row}" for row in SCENE.targets.tolist()}
OF_LISTS = ("narrowed", "patient")  # whose lists show the targets


@pytest.mark.parametrize("name", ATTACKS)
def test_fake_users_are_visitors(name: str) -> None:
    events = list(ATTACKS[name](SCENE))
    assert events == list(ATTACKS[name](SCENE))  # the same for every defence
    assert len({e.event_id for e in events}) == len(events)
    assert len({e.user_id for e in events}) <= SCENE.fakes
    assert all(e.event_time_ms < NOW_MS for e in events)
    shown = {e.item_id for e in events if e.type is EventType.IMPRESSION}
    assert bool(shown & TARGETS) == (name in OF_LISTS)
    marked = {e.value for e in events if e.type is EventType.IMPRESSION and e.item_id in TARGETS}
    assert marked == {"narrowed": {NARROWED}, "patient": {None}}.get(name, set()), (
        "what is shown is not theirs to decide, but by a filter, which the API marks, or by chance"
    )
    assert {e.item_id for e in events if e.type is EventType.CLICK} >= TARGETS


def test_a_drip_is_of_three_fake_users_per_item_and_day() -> None:
    users = defaultdict[tuple[str, int], set[str]](set)
    for event in ATTACKS["drip"](SCENE):
        users[event.item_id, event.event_time_ms // MS_PER_DAY].add(event.user_id)
    assert {len(each) for each in users.values()} == {3}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("random", 3),
        ("bandwagon", 3),
        ("coattails", 3),
        ("burst", 3),
        ("drip", 0),
        ("narrowed", 3),
        ("patient", 0),
    ],
)
def test_in_an_honest_log_each_attack_with_enough_unbacked_clicks_is_found(name: str, found: int) -> None:
    rng = np.random.default_rng(0)
    rows = events_table([*_honest(rng), *ATTACKS[name](SCENE)]).select(JUDGED_COLUMNS)
    suspects = Counter(Verdicts.of(tally(rows)).items.column("item_id").to_pylist())
    assert len(suspects.keys() & TARGETS) == found


@pytest.mark.parametrize("name", ATTACKS)
def test_with_tokens_an_outcome_was_shown_and_counts_once(name: str) -> None:
    events, proven = list(ATTACKS[name](SCENE)), list(with_tokens(ATTACKS[name](SCENE)))
    shown = {(e.request_id, e.user_id, e.item_id) for e in events if e.type is EventType.IMPRESSION}
    outcomes = [
        (e.request_id, e.user_id, e.item_id)
        for e in proven
        if e.type is EventType.CLICK and e.request_id is not None
    ]
    assert set(outcomes) <= shown
    assert len(set(outcomes)) == len(outcomes)
    claimed = {e.item_id for e in events if e.type is EventType.CLICK and e.request_id is not None} & TARGETS
    assert bool(claimed) == (name in ("coattails", "burst", "drip", *OF_LISTS))
    assert bool({item for _, _, item in outcomes} & TARGETS) == (name in OF_LISTS)


def _honest(rng: np.random.Generator) -> list[Event]:
    events: list[Event] = []
    for day_ms in range(NOW_MS - 7 * MS_PER_DAY, NOW_MS, MS_PER_DAY):
        for user in range(200):
            for row in rng.choice(ALIVE, 10, replace=False).tolist():
                for kind in (EventType.IMPRESSION, EventType.CLICK)[: 1 + (rng.random() < 0.2)]:
                    at_ms = day_ms + int(rng.integers(MS_PER_DAY // 2)) * (kind is EventType.CLICK)
                    events.append(Event(f"{kind}-{len(events)}", kind, f"u{user}", f"i{row}", at_ms))
    return events


def test_the_attack_that_wins_is_named() -> None:
    config = PoisonDrill(attacks=("burst", "drip"))
    cells = defaultdict[tuple[str, Defence], Cell](Cell)
    for attack, defence, exposures in (
        (CLEAN, Defence.NONE, 99),
        (CLEAN, Defence.BOTH, 99),
        ("burst", Defence.NONE, 1_999),
        ("burst", Defence.BOTH, 99),
        ("drip", Defence.NONE, 399),
        ("drip", Defence.BOTH, 199),
    ):
        cells[attack, defence].add(Played(exposures, 9_999, 1.0))
    for attack in (CLEAN, "burst", "drip"):
        for defence in (Defence.STREAM, Defence.TRAINING, Defence.ALL):
            cells[attack, defence].add(Played(0, 9_999, 1.0))
    judged = {attack: [Judged(0.0, 0.0, 1.0)] for attack in (CLEAN, "burst", "drip")}
    found = result(config, cells, judged, {"burst_neutralised_s": 0.0, "burst_control_in_list_s": 2.5})
    assert found.figures["exposure_without_defence_max"] == 20
    assert found.figures["exposure_burst_both"] == 1
    assert found.figures["exposure_defended_max"] == 2
    assert not found.met
    assert "drip still wins: 2.00 times" in found.notes[-2]
    assert "burst is the strongest of those that are stopped: 0.01 times" in found.notes[-1]
