"""What simulated users see of lists that follow their acts at once, later or never."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.evaluation.benchmarks.edge_lift import (
    DELAYS_MS,
    LIFT_GOALS,
    OFFLINE,
    Order,
    Played,
    Way,
    _figures,
    play,
)
from infra.evaluation.benchmarks.edge_world import Act, Server, with_acts
from recsys.contracts.types import EventType
from recsys.features.definitions import ENGAGED_VISITS
from recsys.models.encoding import TYPE_NUMBERS, encode_arrays
from recsys.simulation.behavior import Behavior, Response, Visitor
from recsys.simulation.world import Ints, World, WorldConfig, create_world

READING_MS = 5_000
ROWS = list(range(40))


@pytest.fixture(scope="module")
def world() -> World:
    return create_world(WorldConfig(users=20, items=100, days=2))


class Reversing:
    """A server and its lists: ascending, but descending for whoever knows of a like."""

    def __init__(self, acts: Sequence[Act] = ()) -> None:
        self._acts = acts
        liked = any(act.type is EventType.LIKE for act in acts)
        self.rows = ROWS[::-1] if liked else ROWS

    def list_for(self, user: int, acts: tuple[Act, ...], now_ms: int) -> "Reversing":
        return Reversing(acts)

    def after(self, acts: tuple[Act, ...]) -> list[int]:
        return Reversing([*self._acts, *acts]).rows


def scripted(behavior: Behavior, visitor: Visitor, rows: Ints, now_ms: int) -> Response:
    """Everything is looked at, the first item clicked, read for `READING_MS` and liked; then the user leaves."""
    n = len(rows)
    first = np.arange(n) == 0
    dwell = np.where(first, READING_MS, 0)
    return Response(np.ones(n, bool), first, dwell, first, np.zeros(n, bool), np.zeros(n, bool), stays=False)


def looked_at(world: World, way: Way) -> list[int]:
    return list(play(world, cast("Server", Reversing()), 0, 0, way).looked_at[:4])


@pytest.mark.parametrize(
    ("way", "seen"),
    [
        # the next item is looked at as soon as the first one is liked, and for .8 s
        (Way(Order.DEVICE, OFFLINE), [0, 39, 38, 37]),
        (Way(Order.DEVICE, 100), [0, 39, 38, 37]),
        (Way(Order.SENT, 0), [0, 39, 38, 37]),
        (Way(Order.SENT, 100), [0, 1, 39, 38]),
        (Way(Order.SENT, 800), [0, 1, 39, 38]),
        (Way(Order.SENT, 801), [0, 1, 2, 39]),
        (Way(Order.SENT, OFFLINE), [0, 1, 2, 3]),
    ],
)
def test_an_item_is_what_it_was_when_it_was_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch, way: Way, seen: list[int]
) -> None:
    monkeypatch.setattr(Behavior, "respond", scripted)
    assert looked_at(world, way) == seen


def test_without_a_delay_every_order_is_the_servers(world: World) -> None:
    server = cast("Server", Reversing())
    for user in range(20):
        sessions = [play(world, server, user, 0, Way(order, 0.0)) for order in Order]
        assert sessions == sessions[:1] * 3


def test_who_knows_the_truth_gains_from_the_first_act_on(world: World) -> None:
    server = cast("Server", Reversing())
    clicks = {
        order: sum(play(world, server, user, 0, Way(order, OFFLINE)).clicks for user in range(20))
        for order in Order
    }
    assert clicks[Order.TRUTH] > clicks[Order.SENT]


def test_the_same_user_gives_the_same_session(world: World) -> None:
    server = cast("Server", Reversing())
    sessions = [
        [play(world, server, user, 0, Way(Order.SENT, OFFLINE)) for user in range(20)] for _ in range(2)
    ]
    assert sessions[0] == sessions[1]
    assert sum(session.clicks for session in sessions[0]) > 0


def test_with_the_same_random_numbers_the_response_to_a_beginning_is_that_of_the_list(world: World) -> None:
    """So a list may be reordered behind what has been looked at."""
    behavior = Behavior(world)

    def response(rows: list[int], user: int) -> Response:
        visitor = behavior.visitor(user)
        visitor.rng = np.random.default_rng(user)
        return behavior.respond(visitor, np.array(rows), 0)

    for user in range(20):
        first, second = response(ROWS[:12], user), response([*ROWS[:5], *ROWS[20:27]], user)
        for name in ("examined", "clicked", "dwell_ms", "liked", "added", "purchased"):
            assert getattr(first, name)[:5].tolist() == getattr(second, name)[:5].tolist(), name


@pytest.mark.parametrize("before", [0, 3, ENGAGED_VISITS.size])
def test_a_device_adds_acts_to_the_history_as_the_server_does(before: int) -> None:
    rng = np.random.default_rng(before)
    items, kinds = rng.integers(1, 99, before), rng.integers(1, 5, before)
    times = np.sort(rng.integers(1, 10**6, before))
    acts = [
        (7, Act(0, EventType.CLICK, 2 * 10**6)),
        (3, Act(0, EventType.LIKE, 2 * 10**6 + 9_000)),
    ]
    now_ms = acts[-1][1].at_ms

    def rows(numbers: Sequence[int]) -> NDArray[np.int16]:
        return np.array(numbers, np.int16).reshape(-1, 1)

    encoded = encode_arrays(items, kinds, times, 10**6, before)
    given: dict[str, NDArray[Any]] = {
        "history_rows": rows(items.tolist()) if before else rows([0]),
        "history_scales": np.ones(before, np.float32) if before else np.zeros(1, np.float32),
        "types": encoded.types.astype(np.int32) if before else np.zeros(1, np.int32),
        "gaps": encoded.gaps.astype(np.int32) if before else np.zeros(1, np.int32),
        "rows": rows(range(100, 110)),
        "scales": np.full(10, 2, np.float32),
    }
    found = with_acts(given, int(times[-1]) if before else 0, acts)
    wanted = encode_arrays(
        np.append(items, [107, 103]),
        np.append(kinds, [TYPE_NUMBERS[EventType.CLICK], TYPE_NUMBERS[EventType.LIKE]]),
        np.append(times, [2 * 10**6, now_ms]),
        now_ms,
        min(before + 2, ENGAGED_VISITS.size),
    )
    assert found["history_rows"].ravel().tolist() == wanted.history.tolist()
    assert found["types"].tolist() == wanted.types.tolist()
    assert found["gaps"].tolist() == wanted.gaps.tolist()
    assert found["history_scales"][-2:].tolist() == [2, 2]
    assert {found[name].dtype for name in ("types", "gaps")} == {np.dtype(np.int32)}


def test_a_lift_is_of_all_clicks_of_the_same_sessions() -> None:
    clicks = {Order.SENT: [1, 3], Order.DEVICE: [2, 4], Order.TRUTH: [2, 6]}
    played = {
        Way(order, delay): [Played(range(n), n) for n in of]
        for delay in DELAYS_MS
        for order, of in clicks.items()
    }
    figures = _figures(played, sessions=2, seed=0)
    assert figures["simulated_clicks_sent_100ms"] == 2
    assert figures["simulated_lift_100ms"] == pytest.approx(0.5)
    assert figures["simulated_lift_truth_offline"] == pytest.approx(1.0)
    assert figures["simulated_lift_300ms_low"] <= 0.5 <= figures["simulated_lift_300ms_high"]
    assert figures["simulated_sessions_that_differ_0ms"] == 1
    assert LIFT_GOALS.keys() <= figures.keys()
