"""What reranking on the device is worth in clicks, *simulated*: a world's users scroll through lists that follow their
acts at once, or when the server's answer has come.

In each way of following, the same sessions are played with the same random numbers, in virtual time. An item is what it
was when the user began to look at it (`recsys.simulation.actions`: .8 s an item, seconds of reading after a click).
In every way the server's list is taken when it comes. The device computes in no time, which favours it.
"""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np

from infra.evaluation.benchmarks.edge_world import Act, Epochs, Server, train
from infra.terminal import console
from recsys.contracts.types import MS_PER_DAY, EventType
from recsys.result import Goal, Result
from recsys.simulation.actions import SCAN_MS, actions
from recsys.simulation.behavior import Behavior, Response, Visitor
from recsys.simulation.history import HistoryConfig, write_history
from recsys.simulation.world import World, WorldConfig, create_world
from training.bootstrap import Weights, bootstrap

OFFLINE = math.inf
DELAYS_MS = (0.0, 100.0, 300.0, 3_000.0, 30_000.0, OFFLINE)
# Over a network of 100 and 300 ms the device should be worth something. The others are controls: with no delay nothing
# can be, and who knows the truth must gain offline, else the measurement is wrong.
LIFT_GOALS = {
    "simulated_lift_0ms": Goal("==", 0.0),
    **{f"simulated_lift_{name}_low": Goal(">", 0.0) for name in ("100ms", "300ms", "truth_offline")},
}
LIFT_NOTES = ("figures named `simulated_` come from a simulated world",)
_PAGE, _PAGES = 12, 10
_SESSION, _LISTS = 6, 7  # tags of random streams; those below are the world's


@dataclass(frozen=True)
class LiftConfig:
    """`days` of the log that the student learns from; then one session each of `sessions` users."""

    users: int = 1_200
    items: int = 1_000
    days: int = 6
    sessions: int = 500
    epochs: Epochs = field(default_factory=Epochs)

    @classmethod
    def quick(cls) -> "LiftConfig":
        return cls(users=200, items=300, days=3, sessions=30, epochs=Epochs(1, 1))


class Order(StrEnum):
    """Of a list that does not know the latest acts yet."""

    SENT = "sent"  # no device: it waits
    DEVICE = "device"  # the model's
    TRUTH = "truth"  # that of the world's true click probabilities, which no model has


class Way(NamedTuple):
    """How a list follows the acts on it. `delay_ms`: from an act until the server's list that knows of it is here."""

    order: Order
    delay_ms: float


class Played(NamedTuple):
    """One session: the rows that were looked at, and how many of them were clicked."""

    looked_at: Sequence[int]
    clicks: int


def run(config: LiftConfig, seed: int) -> Result:
    """The simulation alone: no browser, no servers."""
    return Result("bench edge --simulated", seed, lift_figures(config, seed), LIFT_GOALS, LIFT_NOTES)


def lift_figures(config: LiftConfig, seed: int) -> dict[str, float]:
    """Clicks per session with and without the device, and the lift with its 95 % interval by user, for each delay."""
    world = create_world(WorldConfig(seed=seed, users=config.users, items=config.items, days=config.days + 1))
    now_ms = world.config.start_ms + config.days * MS_PER_DAY
    with tempfile.TemporaryDirectory(prefix="recsys-lift-") as folder:
        home = Path(folder)
        write_history(world, home / "lake", HistoryConfig(days=config.days))
        bundle = train(home / "lake", home, config.epochs, seed)
        console.print(f"simulated: {config.days} days of {config.users} users have trained a student")
        server = Server(bundle, home / "lake", now_ms)
        came = np.unique(world.visits(config.days)[0])
        users = np.random.default_rng((seed, _SESSION)).permutation(came)[: config.sessions]
        ways = [Way(order, delay) for delay in DELAYS_MS for order in Order]
        played: dict[Way, list[Played]] = {way: [] for way in ways}
        for user in users.tolist():
            for way in ways:
                played[way].append(play(world, server, user, now_ms, way))
            server.forget()
    return _figures(played, len(users), seed)


def play(world: World, server: Server, user: int, now_ms: int, way: Way) -> Played:
    """One session of a user: pages of one list, until the user has enough. Equal orders give equal sessions."""
    behavior, visitor = Behavior(world), _visitor(world, user)
    clock_ms, acts, seen, looked_at, clicks = now_ms, list[Act](), list[int](), list[int](), 0
    for page in range(_PAGES):
        first, rows = len(seen), list[int]()
        response: Response | None = None
        for position in range(_PAGE):
            order = list_at(server, behavior, visitor, acts, clock_ms, now_ms, way)
            passed = set(seen)
            shown = seen[first:] + [row for row in order if row not in passed][: _PAGE - position]
            if len(shown) == position:  # nothing is left
                return Played(looked_at, clicks)
            if response is None or shown != rows:
                rows = shown
                rng = np.random.default_rng((world.config.seed, _LISTS, user, page))
                response = behavior.respond(replace(visitor, rng=rng, shown={}), np.array(rows), now_ms)
            seen.append(rows[position])
            done = actions(world, np.array(rows[position : position + 1]), _one(response, position))
            acts += [Act(action.row, action.type, clock_ms + action.after_ms) for action in done]
            clicks += any(action.type is EventType.CLICK for action in done)
            if response.examined[position]:
                looked_at.append(rows[position])
                clock_ms += done[-1].after_ms if done else SCAN_MS
        if response is None or not response.stays:
            break
    return Played(looked_at, clicks)


def _visitor(world: World, user: int) -> Visitor:
    """A user whose session has begun."""
    behavior = Behavior(world)
    rng = np.random.default_rng((world.config.seed, _SESSION, user))
    visitor = replace(behavior.visitor(user), rng=rng)
    behavior.begin_session(visitor)
    return visitor


def list_at(
    server: Server,
    behavior: Behavior,
    visitor: Visitor,
    acts: Sequence[Act],
    clock_ms: int,
    now_ms: int,
    way: Way,
) -> Sequence[int]:
    """Rows of the world as the list has them at `clock_ms`, the best first. `now_ms`: when the session began."""
    known = [act for act in acts if act.at_ms + way.delay_ms <= clock_ms]
    taken = server.list_for(visitor.row, tuple(known), now_ms)
    pending = tuple(acts[len(known) :])
    if not pending or way.order is Order.SENT:
        return taken.rows
    if way.order is Order.DEVICE:
        return taken.after(pending)
    rows = np.array(taken.rows)
    best: list[int] = rows[np.argsort(-behavior.attraction(visitor, rows, now_ms), kind="stable")].tolist()
    return best


def _one(response: Response, position: int) -> Response:
    """The response to one position of a list."""
    at = slice(position, position + 1)
    return Response(
        response.examined[at],
        response.clicked[at],
        response.dwell_ms[at],
        response.liked[at],
        response.added[at],
        response.purchased[at],
        response.stays,
    )


def _figures(played: dict[Way, list[Played]], sessions: int, seed: int) -> dict[str, float]:
    clicks = {way: np.array([one.clicks for one in them], np.float64) for way, them in played.items()}
    compared = [way for way in played if way.order is not Order.SENT]

    def lifts(weights: Weights) -> list[float]:
        totals = {way: float(weights @ of) for way, of in clicks.items()}
        sent = {way: totals[Way(Order.SENT, way.delay_ms)] for way in compared}
        return [totals[way] / sent[way] - 1 if sent[way] else math.nan for way in compared]

    figures: dict[str, float] = {"simulated_sessions": sessions}
    figures |= {f"simulated_clicks_{_name(way)}": float(of.mean()) for way, of in clicks.items()}
    for way, lift in zip(compared, bootstrap(lifts, sessions, rounds=2_000, seed=seed), strict=True):
        pairs = zip(played[way], played[Way(Order.SENT, way.delay_ms)], strict=True)
        figures |= {
            f"simulated_lift_{_name(way)}": lift.value,
            f"simulated_lift_{_name(way)}_low": lift.low,
            f"simulated_lift_{_name(way)}_high": lift.high,
            f"simulated_sessions_that_differ_{_name(way)}": float(np.mean([a != b for a, b in pairs])),
        }
    return figures


def _name(way: Way) -> str:
    """The device's lift has the delay alone."""
    delay = "offline" if way.delay_ms == OFFLINE else f"{way.delay_ms:.0f}ms"
    return delay if way.order is Order.DEVICE else f"{way.order}_{delay}"
