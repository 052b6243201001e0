"""Kill the controller before and after each rename and removal of a file; then let another one continue.

A killed release must end as one that was not: same stages in the audit log, same CURRENT, no SHADOW. Right after the
kill, before anything is repaired, CURRENT must be the candidate only if the state says so.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

from infra.release.controller import Controller
from recsys.bundle import CURRENT, current_version, named_version
from recsys.contracts.types import MS_PER_HOUR
from recsys.experiments.release import GUARDRAILS, Check, Look, Mirrored, Release, ReleasePlan, Stage
from recsys.experiments.release_file import history, propose, read_release, waiting
from recsys.files import atomic_write
from serving.engine.shadow import FILE as SHADOW

HARMFUL = (None, Stage.TRAINED, Stage.SHADOW, Stage.CANARY_10)
_STEP_MS = 6 * MS_PER_HOUR
_MOST_STEPS = 60


class Killed(BaseException):
    """The process ends here. Nothing catches it."""


@dataclass(frozen=True)
class Given:
    """Evidence of a candidate without fault, or that one stage rolls back."""

    clock: Callable[[], int]
    harmful_in: Stage | None = None

    def checks(self, release: Release) -> tuple[Check, ...]:
        return (Check("rows", 1.0, 1.0, "few" if self.harmful_in is release.stage else ""),)

    def mirrored(self, release: Release) -> Mirrored:
        return Mirrored(self.clock(), 1_000, ("slow",) if self.harmful_in is release.stage else ())

    def look(self, release: Release) -> Look:
        p = 0.0 if self.harmful_in is release.stage else 1.0
        return Look(self.clock(), release.stage, 50_000, dict.fromkeys(GUARDRAILS, p))


@dataclass(frozen=True)
class Ended:
    stage: Stage | None
    current: str | None
    shadow: str | None
    waiting: str | None
    stages: tuple[str, ...]


def kill_everywhere(
    bundles: Path, serving: str, candidate: str, harmful: Sequence[Stage | None] = HARMFUL
) -> tuple[int, int]:
    """Number of kills, and of wrong states. `bundles`: a folder of its own with both bundles; `harmful`: in which stage
    the candidate does harm, a release for each."""
    kills = wrong = 0
    for harmful_in in harmful:
        wanted = _release(bundles, serving, candidate, harmful_in, kill_at=None)
        assert isinstance(wanted, Ended)  # noqa: S101 - nothing was killed
        for at in count():
            found = _release(bundles, serving, candidate, harmful_in, kill_at=at)
            if found is None:
                break  # there is no such operation
            kills += 1
            wrong += found != wanted
    return kills, wrong


def _release(
    bundles: Path, serving: str, candidate: str, harmful_in: Stage | None, kill_at: int | None
) -> Ended | None:
    """Release from the start; None: it ended before the operation at which it was to be killed. An empty `Ended`: the
    state right after the kill was wrong."""
    _fresh(bundles, serving)
    now = [1_750_000_000_000]
    controller = Controller(bundles, Given(lambda: now[0], harmful_in), ReleasePlan(), lambda: now[0])
    propose(bundles, candidate)

    def steps() -> None:
        for _ in range(_MOST_STEPS):
            release = controller.step()
            if release is not None and release.ended and waiting(bundles) is None:
                return
            now[0] += _STEP_MS

    if kill_at is not None:
        with suppress(Killed), _killing(kill_at):
            steps()
            return None
        if not _agrees(bundles, serving, candidate):
            return Ended(None, None, None, None, ())
    steps()
    release = read_release(bundles)
    return Ended(
        release.stage if release else None,
        current_version(bundles),
        named_version(bundles / SHADOW),
        waiting(bundles),
        tuple(line["stage"] for line in history(bundles)),
    )


def _agrees(bundles: Path, serving: str, candidate: str) -> bool:
    release, current = read_release(bundles), current_version(bundles)
    promoted = release is not None and release.stage is Stage.PROMOTED
    return current == serving or (promoted and current == candidate)


def _fresh(bundles: Path, serving: str) -> None:
    for path in bundles.iterdir():
        if path.is_file():
            path.unlink()
        elif path.name.startswith("."):
            shutil.rmtree(path)
    atomic_write(bundles / CURRENT, serving + "\n")


@contextmanager
def _killing(at: int) -> Iterator[None]:
    """Raise `Killed` at that operation: even numbers before one, odd ones after it."""
    operations, unlink = count(), Path.unlink

    def killing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Path, *args: Any, **options: Any) -> Any:
            if real is unlink and path.name.startswith("."):
                return real(path, *args, **options)  # of a temporary file
            if next(operations) == at:
                raise Killed
            done = real(path, *args, **options)
            if next(operations) == at:
                raise Killed
            return done

        return call

    with patch.object(Path, "rename", killing(Path.rename)), patch.object(Path, "unlink", killing(unlink)):
        yield
