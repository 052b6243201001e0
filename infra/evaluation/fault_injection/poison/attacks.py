"""What fake users do. They are visitors: they may ask for lists and report any event, but what is shown is not theirs
to decide, except by a filter that narrows their own lists, which the API marks.

Each fake user clicks on every target once a day, since popularity counts a user once a day (ADR 14), and hides it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count

import numpy as np

from recsys.contracts.events import CATEGORIES, CREATOR, Event
from recsys.contracts.text import CATEGORY_SEPARATOR
from recsys.contracts.time_rules import TimeRules
from recsys.contracts.types import MS_PER_DAY, MS_PER_MINUTE, MS_PER_SECOND, NARROWED, EventType
from recsys.simulation.world import Ints, World
from serving.ingest.item_tokens import ItemTokens

_COVER = 20  # clicks a day on other items
_LIST = 10
_LISTS = 10  # of a fake user and day
_POPULAR_SHARE = 0.5  # of a list's places, as `recsys.simulation.history` fills them


@dataclass(frozen=True)
class Scene:
    """What attackers know. `popular`: rows of the best sellers, best first; `first_ms`: midnight of their first day;
    `now_ms`: the midnight after the last."""

    world: World
    fakes: int
    targets: Ints
    popular: Ints
    first_ms: int
    now_ms: int
    seed: int = 0

    @property
    def days(self) -> range:
        return range(self.first_ms, self.now_ms, MS_PER_DAY)

    def alive(self) -> Ints:
        return self.world.alive(self.first_ms)


class _Writer:
    """Events of fake users, with the context that the API adds."""

    def __init__(self, scene: Scene, name: str) -> None:
        self._scene, self._name, self._number = scene, name, count()

    def event(
        self,
        kind: EventType,
        fake: int,
        row: int,
        at_ms: int,
        request: str | None = None,
        value: float | None = None,
    ) -> Event:
        item = self._scene.world.item(row)
        return Event(
            event_id=f"{self._name}-{next(self._number)}",
            type=kind,
            user_id=f"{self._name}-{fake}",
            item_id=item.item_id,
            event_time_ms=at_ms,
            request_id=request,
            position=0 if kind is EventType.IMPRESSION else None,
            value=value,
            context={CATEGORIES: CATEGORY_SEPARATOR.join(item.categories), CREATOR: item.creator},
        )


def random(scene: Scene) -> Iterator[Event]:
    """Hidden among clicks on items drawn at random."""
    return _shilling(scene, "random", scene.alive())


def bandwagon(scene: Scene) -> Iterator[Event]:
    """Hidden among clicks on best sellers, whose neighbours the targets are to become."""
    return _shilling(scene, "bandwagon", scene.popular)


def _shilling(scene: Scene, name: str, cover: Ints) -> Iterator[Event]:
    rng, write = np.random.default_rng((scene.seed, 11)), _Writer(scene, name)
    for day_ms in scene.days:
        for fake in range(scene.fakes):
            others = rng.choice(cover, min(_COVER, len(cover)), replace=False)
            rows = rng.permutation(np.concatenate((scene.targets, others)))
            start_ms = day_ms + int(rng.integers(0, MS_PER_DAY - 60 * MS_PER_MINUTE))
            for n, row in enumerate(rows.tolist()):
                yield write.event(EventType.CLICK, fake, row, start_ms + n * MS_PER_MINUTE)


def coattails(scene: Scene) -> Iterator[Event]:
    """Real lists, with clicks on the best sellers that they show, and clicks on the targets that claim to be of the
    same list."""
    rng, write = np.random.default_rng((scene.seed, 12)), _Writer(scene, "coattails")
    for day_ms in scene.days:
        for fake in range(scene.fakes):
            at_ms = day_ms + int(rng.integers(0, MS_PER_DAY - 60 * MS_PER_MINUTE))
            request = f"coattails-{day_ms}-{fake}"
            shown = rng.choice(scene.popular, _LIST, replace=False).tolist()
            for row in shown:
                yield write.event(EventType.IMPRESSION, fake, row, at_ms, request)
            for n, row in enumerate([*shown[:5], *scene.targets.tolist()]):
                yield write.event(EventType.CLICK, fake, row, at_ms + (n + 1) * MS_PER_SECOND, request)


def burst(scene: Scene) -> Iterator[Event]:
    """Thousands of clicks in the last ten minutes, with made-up requests."""
    rng, write = np.random.default_rng((scene.seed, 13)), _Writer(scene, "burst")
    for fake in range(scene.fakes):
        for n in range(100):
            for row in scene.targets.tolist():
                at_ms = scene.now_ms - int(rng.integers(1, 10 * MS_PER_MINUTE))
                yield write.event(EventType.CLICK, fake, row, at_ms, f"made-up-{fake}-{n}")


def drip(scene: Scene) -> Iterator[Event]:
    """No more than three fake users per target and day, as few as no rule can tell from people, and for longer."""
    write = _Writer(scene, "drip")
    for number, day_ms in enumerate(range(scene.first_ms - 3 * MS_PER_DAY, scene.now_ms, MS_PER_DAY)):
        for n in range(3):
            fake = (3 * number + n) % scene.fakes
            for place, row in enumerate(scene.targets.tolist()):
                at_ms = day_ms + (8 + 4 * n) * 60 * MS_PER_MINUTE + place * MS_PER_MINUTE
                yield write.event(EventType.CLICK, fake, row, at_ms, f"made-up-{number}-{n}")


def narrowed(scene: Scene) -> Iterator[Event]:
    """Real lists that a filter narrows to the targets, and a click on each item that they show."""
    rng, write = np.random.default_rng((scene.seed, 14)), _Writer(scene, "narrowed")
    for day_ms in scene.days:
        for fake in range(scene.fakes):
            for n in range(_LISTS):
                at_ms = day_ms + int(rng.integers(0, MS_PER_DAY - 60 * MS_PER_MINUTE))
                request = f"narrowed-{day_ms}-{fake}-{n}"
                for row in scene.targets.tolist():
                    yield write.event(EventType.IMPRESSION, fake, row, at_ms, request, NARROWED)
                for place, row in enumerate(scene.targets.tolist()):
                    yield write.event(
                        EventType.CLICK, fake, row, at_ms + (place + 1) * MS_PER_SECOND, request
                    )


def patient(scene: Scene) -> Iterator[Event]:
    """Ordinary lists, asked for again and again, and a click on each target that one of them shows."""
    rng, write = np.random.default_rng((scene.seed, 15)), _Writer(scene, "patient")
    alive = scene.alive()
    for day_ms in scene.days:
        for fake in range(scene.fakes):
            for n in range(_LISTS):
                at_ms = day_ms + int(rng.integers(0, MS_PER_DAY - 60 * MS_PER_MINUTE))
                request = f"patient-{day_ms}-{fake}-{n}"
                drawn = rng.choice(alive, _LIST, replace=False)
                popular = rng.choice(scene.popular, _LIST, replace=False)
                shown = np.unique(np.where(rng.random(_LIST) < _POPULAR_SHARE, popular, drawn))
                for row in shown.tolist():
                    yield write.event(EventType.IMPRESSION, fake, row, at_ms, request)
                for row in np.intersect1d(shown, scene.targets).tolist():
                    yield write.event(EventType.CLICK, fake, row, at_ms + MS_PER_SECOND, request)


ATTACKS: Mapping[str, Callable[[Scene], Iterator[Event]]] = {
    each.__name__: each for each in (random, bandwagon, coattails, burst, drip, narrowed, patient)
}


def with_tokens(events: Iterable[Event]) -> Iterator[Event]:
    """What an API with RECSYS_ITEM_TOKENS logs of these: fake users have the tokens of what their lists showed."""
    tokens = ItemTokens(b"of the drill".ljust(32), TimeRules())
    given: dict[tuple[str | None, str, str], str] = {}
    logged = set[tuple[str, str]]()
    for event in events:
        shown = event.request_id, event.user_id, event.item_id
        if event.type is EventType.IMPRESSION:
            assert event.request_id is not None  # noqa: S101 - each is of a list
            (given[shown],) = tokens.make(
                event.request_id, event.user_id, [event.item_id], event.event_time_ms
            )
        else:
            event = tokens.judge(event, given.get(shown), event.event_time_ms).event
        if event.key not in logged:
            logged.add(event.key)
            yield event
