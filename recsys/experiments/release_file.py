"""The files of a release, in the bundles folder: its state, the version that waits, and the audit log.

`RELEASE.json` is replaced in one step, and what users see is read from it (`experiment_of`): there is no moment at
which the state and the exposure disagree. `PROPOSED` names the next candidate. `releases.jsonl` has one line for each
stage that began; a line that a killed process did not write is written by the next change.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recsys import files
from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import MS_PER_SECOND
from recsys.experiments.assignment import Experiment
from recsys.experiments.release import Release, experiment_of
from recsys.files import atomic_write
from recsys.operator_files import read_json, read_text

STATE, PROPOSED, AUDIT = "RELEASE.json", "PROPOSED", "releases.jsonl"
_LOCK = ".release.lock"


@contextmanager
def locked(bundles: Path) -> Iterator[None]:
    """Hold the lock that every change of these files needs; waits for it. It ends with the process."""
    with files.locked(bundles / _LOCK):
        yield


def read_release(bundles: Path) -> Release | None:
    """The latest release, None before the first.
    Raises `InvalidConfig`: the file is damaged."""
    return _read(bundles / STATE)


def read_experiment(state: Path) -> Experiment | None:
    """The experiment of the state in this file, None without one. Raises `InvalidConfig`: the file is damaged."""
    try:
        return experiment_of(_read(state))
    except ValueError as error:  # names that no experiment may have
        raise InvalidConfig(f"{state}: {error}") from error


def write_release(bundles: Path, release: Release) -> None:
    """Replace the state, then complete the audit log. The caller holds the lock."""
    atomic_write(bundles / STATE, json.dumps(asdict(release), indent=2) + "\n", fsync=True)
    complete_audit(bundles, release)


def complete_audit(bundles: Path, release: Release) -> None:
    """Append the line of the release's stage, unless it is there. The caller holds the lock."""
    lines = history(bundles)
    if lines and (lines[-1]["version"], lines[-1]["number"]) == (release.version, release.number):
        return
    line = {
        "at": datetime.fromtimestamp(release.since_ms / MS_PER_SECOND, UTC).isoformat(timespec="seconds"),
        **{
            name: getattr(release, name)
            for name in ("version", "serving", "number", "stage", "reason", "users", "p")
        },
    }
    with (bundles / AUDIT).open("ab+") as file:
        text = json.dumps(line)
        file.seek(max(0, file.seek(0, 2) - 1))
        whole = file.read() in (b"", b"\n")  # else a killed process left half a line
        file.write(f"{'' if whole else chr(10)}{text}\n".encode())


def history(bundles: Path) -> list[dict[str, Any]]:
    """Every stage of every release, oldest first; half lines are left out."""
    try:
        text = (bundles / AUDIT).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    lines = []
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and {"version", "number", "stage"} <= found.keys():
            lines.append(found)
    return lines


def propose(bundles: Path, version: str) -> None:
    """Let this version be the next candidate, instead of any that still waits."""
    with locked(bundles):
        atomic_write(bundles / PROPOSED, version + "\n", fsync=True)


def waiting(bundles: Path) -> str | None:
    """The version that waits to be the next candidate. Raises `InvalidConfig`: the file is damaged."""
    try:
        return read_text(bundles / PROPOSED, InvalidConfig).strip() or None
    except FileNotFoundError:
        return None


def take_waiting(bundles: Path) -> None:
    """Nothing waits any more. The caller holds the lock."""
    (bundles / PROPOSED).unlink(missing_ok=True)


def use(bundles: Path) -> None:
    """From now on, bundles of this folder are released."""
    (bundles / AUDIT).touch()


def is_in_use(bundles: Path) -> bool:
    """Whether bundles are released here: training then proposes instead of publishing."""
    return (bundles / AUDIT).exists()


def _read(state: Path) -> Release | None:
    try:
        return read_json(state, Release, InvalidConfig)
    except FileNotFoundError:
        return None
