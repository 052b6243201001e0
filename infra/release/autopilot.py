"""`recsys autopilot`: one process that releases what is proposed and, if asked to, trains when a trigger says so."""

import fcntl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from infra.release.controller import Controller
from infra.release.triggers import Situation, TriggerPlan, reason_to_train
from recsys.bundle import current_version, read_manifest, versions
from recsys.contracts.errors import InvalidBundle, InvalidConfig, RecsysError
from recsys.datasets.catalogue import items_path
from recsys.experiments.release_file import read_release, waiting
from recsys.files import locked
from recsys.lake.parquet import read_columns
from recsys.settings import Settings

_log = structlog.get_logger(__name__)
EVERY_S = 1.0
HEARTBEAT = ".autopilot"  # locked by the process that releases; its time is that of the latest step
_LOOK_EVERY_S = 60.0  # at triggers
_TIMEOUT_S = 5.0
_DIFFERENT = 0.25  # PSI of another population
TRAINING = (("features", "build"), ("train", "nightly"))


class AlreadyRuns(InvalidConfig):
    """Another process releases the bundles of this folder."""


@contextmanager
def alone(bundles: Path) -> Iterator[None]:
    """Be the only process that releases the bundles of this folder; ends with the process.
    Raises `AlreadyRuns`: another one does."""
    with ExitStack() as opened:
        try:
            opened.enter_context(locked(bundles / HEARTBEAT, wait=False))
        except BlockingIOError as error:
            raise AlreadyRuns(f"another release process runs on {bundles}; one is enough") from error
        yield


def is_running(bundles: Path) -> bool:
    """Whether a process releases the bundles of this folder."""
    try:
        with (bundles / HEARTBEAT).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def run(
    bundles: Path,
    controller: Controller,
    stop: threading.Event,
    begin_training: Callable[[], None] = lambda: None,
    until_ended: bool = False,
) -> None:
    """Take steps until `stop`, or until the release has ended. A step that fails is logged and tried again."""
    known: tuple[str, int] | None = None
    while not stop.is_set():
        try:
            (bundles / HEARTBEAT).touch()
            release = controller.step()
            if release is not None and (release.version, release.number) != known:
                known = release.version, release.number
                _log.info("release", version=release.version, stage=release.stage, reason=release.reason)
            begin_training()
            if until_ended and (release is None or release.ended):
                return
        except (RecsysError, OSError) as error:
            _log.error("a step of the release failed; it is tried again", reason=str(error))
        stop.wait(EVERY_S)


class Trainer:
    """Trains in child processes, one at a time, when a trigger asks for it."""

    def __init__(self, settings: Settings, plan: TriggerPlan, api: str, key: str = "") -> None:
        self._settings = settings
        self._plan = plan
        self._api = api
        self._headers = {"x-api-key": key} if key else {}
        self._begun_ms = 0
        self._looked_s = -_LOOK_EVERY_S
        self._left: list[Sequence[str]] = []
        self._child: subprocess.Popen[bytes] | None = None

    def step(self) -> None:
        """Start what is due, or the next command of a training that runs."""
        if self._child is not None:
            code = self._child.poll()
            if code is None:
                return
            self._child = None
            if code:
                _log.error("the training failed; the serving bundle stays", code=code)
                self._left = []
        if self._left:
            self._child = subprocess.Popen([sys.executable, "-m", "infra.cli.main", *self._left.pop(0)])
        elif time.monotonic() - self._looked_s >= _LOOK_EVERY_S:
            self._looked_s = time.monotonic()
            now_ms = time.time_ns() // 1_000_000
            if reason := reason_to_train(self._situation(), now_ms, self._plan):
                _log.info("a training begins", reason=reason)
                self._begun_ms, self._left = now_ms, list(TRAINING)

    def close(self) -> None:
        """A training that runs is stopped; the next one continues from its checkpoints."""
        if self._child is not None:
            self._child.terminate()
            self._child.wait()

    def _situation(self) -> Situation:
        made = [self._begun_ms]
        for version in versions(self._settings.bundles):
            with suppress(InvalidBundle):
                made.append(read_manifest(self._settings.bundles / version).created_ms)
        # both are measured against the serving bundle: what is on its way may be the answer
        if self._releasing():
            return Situation(max(made), None, None)
        return Situation(max(made), self._drifted(), new_items(self._settings))

    def _releasing(self) -> bool:
        bundles = self._settings.bundles
        release = read_release(bundles)
        return waiting(bundles) is not None or (release is not None and not release.ended)

    def _drifted(self) -> float | None:
        try:
            found = httpx.get(f"{self._api}/v1/system", headers=self._headers, timeout=_TIMEOUT_S)
            psi = found.raise_for_status().json()["drift"]["psi"]
        except (httpx.HTTPError, ValueError, KeyError):
            return None
        return sum(value > _DIFFERENT for value in psi.values()) / len(psi) if psi else None


def new_items(settings: Settings) -> float | None:
    """Share of the lake's items that the serving bundle does not know; None: one of the tables cannot be read."""
    version, table = current_version(settings.bundles), items_path(settings.lake)
    if version is None:
        return None
    paths = settings.bundles / version / "items.parquet", table
    try:
        known, ids = (read_columns(path, ["item_id"])["item_id"] for path in paths)
    except (pa.ArrowException, OSError):
        return None
    return 1 - (pc.sum(pc.is_in(ids, value_set=known)).as_py() or 0) / len(ids) if len(ids) else None
