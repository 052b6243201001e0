"""The model host: which bundle answers, and how another one takes its place without losing a request.

A bundle is loaded and checked aside; then one reference changes. Requests that have begun keep the old runtime
until they end, then it is freed. A bundle that is refused leaves the old one where it is.
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import structlog

from recsys.bundle import Bundle, current_version, open_bundle, publish
from recsys.errors import FingerprintMismatch, InvalidBundle, RecsysError
from serving.telemetry import Telemetry

_log = structlog.get_logger(__name__)


class Loaded(Protocol):
    """What a loader makes of a bundle."""

    @property
    def bundle(self) -> Bundle: ...


R = TypeVar("R", bound=Loaded)


class ModelHost(Generic[R]):
    """Thread-safe. `load` makes a bundle ready to answer, or raises `InvalidBundle`; `release` is told of
    a runtime that no new request will get.

    `fingerprint` gives that of the feature definitions in the store; None when the store is empty or away.
    """

    def __init__(
        self,
        bundles: Path,
        load: Callable[[Bundle], R],
        release: Callable[[R], None],
        code_fingerprint: str,
        store_fingerprint: Callable[[], str | None],
        telemetry: Telemetry,
    ) -> None:
        self._bundles = bundles
        self._load = load
        self._release = release
        self._code_fingerprint = code_fingerprint
        self._store_fingerprint = store_fingerprint
        self._telemetry = telemetry
        self._lock = threading.Lock()  # one load at a time; never taken by requests
        self._runtime: R | None = None
        self._refused: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def runtime(self) -> R | None:
        """What answers now. Take it once a request."""
        return self._runtime

    @property
    def active(self) -> str | None:
        runtime = self._runtime
        return runtime.bundle.manifest.version if runtime else None

    @property
    def refused(self) -> Mapping[str, str]:
        """Versions that were refused, and why."""
        return dict(self._refused)

    def activate(self, version: str) -> None:
        """Load, check and swap in one bundle. Returns when it answers.

        Raises:
            InvalidBundle: a file is missing or altered, or the golden outputs differ. The old one goes on.
            FingerprintMismatch: it was trained on other feature definitions. The old one goes on.
        """
        with self._lock:
            if version == self.active:
                return
            try:
                runtime = self._open(version)
            except RecsysError as error:
                self._refused[version] = str(error)
                self._telemetry.bundle_loads.labels("refused").inc()
                _log.error("bundle refused", version=version, active=self.active, reason=str(error))
                raise
            old, self._runtime = self._runtime, runtime
            if old is not None:
                self._release(old)
            self._refused.pop(version, None)
            self._telemetry.bundle_loads.labels("loaded").inc()
            self._telemetry.bundle(version)
            _log.info("bundle active", version=version, previous=old.bundle.manifest.version if old else None)

    def publish(self, version: str) -> None:
        """`activate`, then make it the current one for the other processes and for the next start."""
        self.activate(version)
        publish(self._bundles, version)

    def follow(self, every_s: float) -> None:
        """Load the published bundle now, and every newly published one from now on, in a thread."""
        self._look()
        self._thread = threading.Thread(target=self._watch, args=(every_s,), name="model-host", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._runtime is not None:
            self._release(self._runtime)

    def _watch(self, every_s: float) -> None:
        while not self._stop.wait(every_s):
            try:
                self._look()
            except Exception:
                _log.exception("looking for a new bundle failed")

    def _look(self) -> None:
        version = current_version(self._bundles)
        if version is None or version == self.active or version in self._refused:
            return  # what was refused stays refused until somebody activates it by hand
        try:
            self.activate(version)
        except RecsysError:
            return  # noted by `activate`

    def _open(self, version: str) -> R:
        bundle = open_bundle(self._bundles / version)
        trained_on = bundle.manifest.feature_fingerprint
        for owner, fingerprint in (
            ("this code", self._code_fingerprint),
            ("the feature store", self._store_fingerprint()),
        ):
            if fingerprint is not None and fingerprint != trained_on:
                raise FingerprintMismatch(
                    f"{version}: trained on feature definitions {trained_on[:12]}, {owner} has {fingerprint[:12]};"
                    " rebuild the features and train again"
                )
        try:
            return self._load(bundle)
        except RecsysError:
            raise
        except Exception as error:  # a library's own error: a file that it cannot read
            raise InvalidBundle(f"{version}: cannot be loaded: {type(error).__name__}: {error}") from error
