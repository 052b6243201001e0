"""The release controller: asks for evidence, lets the state machine decide, and makes the pointers follow.

Each step reads the state from its file, so that commands, a second controller or a kill between any two writes change
nothing. What was decided is written first (`settled` false); then the pointers are set; then it is settled. Users see
the canary as the state says (`recsys.experiments.release_file`), so no pointer exposes anybody.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import structlog

from recsys.bundle import current_version, named_version, open_bundle, publish
from recsys.contracts.errors import InvalidBundle, InvalidConfig
from recsys.experiments.release import (
    LONGEST_VERSION,
    SHARES,
    Abort,
    Check,
    Event,
    Gated,
    Look,
    Mirrored,
    Promote,
    Release,
    ReleasePlan,
    Stage,
    Tick,
    decide,
    proposed,
    rolled_back,
)
from recsys.experiments.release_file import (
    complete_audit,
    locked,
    propose,
    read_release,
    take_waiting,
    waiting,
    write_release,
)
from recsys.signatures import PublicKeys
from serving.engine.shadow import FILE as SHADOW
from serving.engine.shadow import set_shadow

_log = structlog.get_logger(__name__)
Keys = Callable[[], PublicKeys]


class Evidence(Protocol):
    """What is known of a candidate. None: nothing yet."""

    def checks(self, release: Release) -> tuple[Check, ...] | None:
        """Of the offline gate. Any exception but `OSError` is a failed check: it cannot be run."""

    def mirrored(self, release: Release) -> Mirrored | None: ...

    def look(self, release: Release) -> Look | None: ...


class Controller:
    """One release after the other, in a folder of bundles."""

    def __init__(
        self,
        bundles: Path,
        evidence: Evidence,
        plan: ReleasePlan,
        now_ms: Callable[[], int],
        keys: Keys = tuple,
    ) -> None:
        self._bundles = bundles
        self._evidence = evidence
        self._plan = plan
        self._now_ms = now_ms
        self._keys = keys

    def step(self) -> Release | None:
        """Do what can be done now; returns the release as it is then, None before the first."""
        with locked(self._bundles):
            release = self._ready()
        if release is None or release.ended:
            return release
        event = self._event(release)
        return change(self._bundles, lambda now: self._decided(now, release, event), self._keys)

    def _ready(self) -> Release | None:
        """What a killed process left undone is done; a waiting version becomes the release if none runs."""
        release = read_release(self._bundles)
        if release is not None:
            complete_audit(self._bundles, release)
            release = settle(self._bundles, release, self._keys())
            if not release.ended:
                if waiting(self._bundles) == release.version:
                    take_waiting(self._bundles)
                return release
        return self._begun() or release

    def _begun(self) -> Release | None:
        version = waiting(self._bundles)
        if version is None:
            return None
        serving = current_version(self._bundles)
        release = None
        try:
            open_bundle(self._bundles / version, self._keys())
            if serving is None:  # nothing to compare it with, and nobody to harm
                publish(self._bundles, version, self._keys())
            elif version != serving:
                release = proposed(version, serving, self._now_ms())
                write_release(self._bundles, release)
        except InvalidBundle as error:
            _log.error("the proposed bundle is refused", version=version, reason=str(error))
        take_waiting(self._bundles)
        return release

    def _event(self, release: Release) -> Event:
        now_ms = self._now_ms()
        found: Event | None = None
        serving = current_version(self._bundles)
        if serving == release.version and release.stage is not Stage.TRAINED:
            return Promote(now_ms, "publishing it by hand")
        if serving != release.serving:
            return Abort(
                now_ms, f"{serving} was published meanwhile, this was compared with {release.serving}"
            )
        if release.stage is Stage.TRAINED:
            # the gate may take hours, and each try ends with the process: time first
            late = now_ms - release.since_ms >= self._plan.longest_ms(Stage.TRAINED)
            return (None if late else self._gated(release)) or Tick(now_ms)
        try:
            if release.stage is Stage.SHADOW:
                found = self._evidence.mirrored(release)
            elif release.stage in SHARES:
                found = self._evidence.look(release)
        except Exception as error:  # a stage that cannot be looked at must still end
            _log.error("no evidence", stage=release.stage, reason=repr(error))
        return found or Tick(now_ms)

    def _gated(self, release: Release) -> Gated | None:
        try:
            checks = self._evidence.checks(release)
        except OSError as error:  # of the machine, not of the candidate: tried again
            _log.error("the offline gate could not read or write; it is tried again", reason=str(error))
            return None
        except Exception as error:  # also a library's, on a candidate that it cannot run
            checks = (Check("gate", None, None, f"it cannot be run: {error}"),)
        return None if checks is None else Gated(self._now_ms(), checks)

    def _decided(self, now: Release, before: Release, event: Event) -> Release:
        """Evidence for a release that has changed meanwhile says nothing."""
        same = (now.version, now.number) == (before.version, before.number)
        return decide(now, event, self._plan) if same else now


def change(bundles: Path, decided: Callable[[Release], Release], keys: Keys) -> Release:
    """Replace the state by what is decided of it, and set the pointers.
    Raises `InvalidConfig`: there is no release yet."""
    with locked(bundles):
        before = read_release(bundles)
        if before is None:
            raise InvalidConfig(f"{bundles}: nothing was released yet; `recsys release run VERSION` begins")
        after = decided(before)
        if after != before:
            write_release(bundles, after)
        return settle(bundles, after, keys())


def settle(bundles: Path, release: Release, keys: PublicKeys = ()) -> Release:
    """Set SHADOW and CURRENT as the state says, unless that is done. A promotion that cannot be published is rolled
    back. The caller holds the lock."""
    if release.settled:
        return release
    mirrors = named_version(bundles / SHADOW) == release.version
    if mirrors != (release.stage is Stage.SHADOW):
        set_shadow(bundles, None if mirrors else release.version)
    if release.stage is Stage.PROMOTED:
        try:
            publish(bundles, release.version, keys)
        except InvalidBundle as error:  # damaged since the gate, or its key was withdrawn
            release = rolled_back(release, release.since_ms, f"it cannot be published: {error}")
    settled = replace(release, settled=True)
    write_release(bundles, settled)
    return settled


def offer(bundles: Path, version: str, keys: PublicKeys = ()) -> None:
    """Verify a bundle and propose it.
    Raises `InvalidBundle`: it is damaged, serves already, or its name is too long for the experiment that shows it."""
    open_bundle(bundles / version, keys)
    if version == current_version(bundles):
        raise InvalidBundle(f"{version} serves already; there is nothing to release")
    if len(version) > LONGEST_VERSION:
        raise InvalidBundle(f"{version}: a version that is released has at most {LONGEST_VERSION} characters")
    propose(bundles, version)
