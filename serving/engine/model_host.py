"""The model host: which bundles are loaded, which one is active, and how it is replaced without losing a request.

A bundle is loaded and checked first; then one reference changes. Requests in progress keep the old runtime, which is
freed after them. A refused bundle changes nothing.

Other bundles may be loaded, too: those that an experiment's arm or the shadow wants, and previous ones for a quick
rollback. Together they take at most `max_bytes`: above it the least recently used one that is not wanted is unloaded,
and a wanted one that does not fit is refused.
"""

import itertools
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import structlog

from recsys.bundle import CURRENT, Bundle, current_version, is_version, open_bundle, publish
from recsys.contracts.errors import (
    FingerprintMismatch,
    InvalidBundle,
    InvalidConfig,
    RecsysError,
    Unavailable,
)
from recsys.signatures import PublicKeys
from serving.telemetry import Telemetry

_log = structlog.get_logger(__name__)


class Loaded(Protocol):
    """What a loader makes of a bundle."""

    @property
    def bundle(self) -> Bundle: ...


R = TypeVar("R", bound=Loaded)


class ModelHost(Generic[R]):
    """Thread-safe. `load` makes a bundle ready to answer, or raises `InvalidBundle`; `release` gets a runtime that no
    new request will use; `weigh` estimates the bytes of a bundle in memory. `store_fingerprint` returns None when the
    store is empty or away."""

    def __init__(
        self,
        bundles: Path,
        load: Callable[[Bundle], R],
        release: Callable[[R], None],
        code_fingerprint: str,
        store_fingerprint: Callable[[], str | None],
        telemetry: Telemetry,
        weigh: Callable[[Bundle], int] = lambda bundle: 1,
        max_bytes: int = 0,
        keys: Callable[[], PublicKeys] = tuple,
    ) -> None:
        self._bundles = bundles
        self._load = load
        self._release = release
        self._code_fingerprint = code_fingerprint
        self._store_fingerprint = store_fingerprint
        self._telemetry = telemetry
        self._weigh = weigh
        self._max_bytes = max_bytes
        self._keys = keys  # read for each bundle: one of them must have signed it
        self._lock = threading.Lock()  # one load at a time; never taken by requests
        self._following = threading.Lock()  # taken first: active bundle and CURRENT change together
        self._published_ns = 0  # when CURRENT was written, as last seen
        self._pool: Mapping[str, R] = {}  # replaced as a whole: requests read it without the lock
        self._bytes: dict[str, int] = {}
        self._used: dict[str, int] = {}  # version → when it was used last, as a count
        self._count = itertools.count()
        self._active: R | None = None
        self._refused: dict[str, str] = {}
        self._wanted: frozenset[str] = frozenset()
        # each returns versions that it wants loaded besides the active one
        self.wanted: list[Callable[[], Collection[str]]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def runtime(self, version: str = "") -> R | None:
        """The active runtime or, by version, another loaded one; None when it is not loaded. Call it once per request,
        which never waits: a version is loaded because one of `wanted` names it."""
        if not version:
            return self._active
        found = self._pool.get(version)
        if found is not None:
            self._used[version] = next(self._count)
        return found

    def require(self) -> R:
        """The active runtime. Raises `Unavailable`: there is none; it says what to do."""
        if self._active is not None:
            return self._active
        if self._refused:
            raise Unavailable(f"no usable bundle: {'; '.join(self._refused.values())}")
        raise Unavailable("no bundle yet: run `recsys train all`, then `recsys bundle publish VERSION`")

    @property
    def active(self) -> str | None:
        runtime = self._active
        return runtime.bundle.manifest.version if runtime else None

    @property
    def runtimes(self) -> Collection[R]:
        """Everything loaded. Reading it does not count as use."""
        return self._pool.values()

    @property
    def loaded(self) -> Mapping[str, int]:
        """Every loaded version and its estimated bytes."""
        return {version: self._bytes.get(version, 0) for version in self._pool}

    @property
    def refused(self) -> Mapping[str, str]:
        """Versions that were refused, and why."""
        return dict(self._refused)

    def activate(self, version: str) -> None:
        """Load, check and swap in one bundle; returns when it is active. It may alone exceed the limit: then no other
        one stays loaded. On an error the old one stays active.
        Raises `InvalidBundle`: a file is missing or altered, or the golden outputs differ.
        Raises `FingerprintMismatch`: it was trained on other feature definitions."""
        with self._lock:
            previous = self.active
            if version == previous:
                return
            self._active = self._loaded_or_load(version, must_fit=False)
            self._telemetry.bundle(version)
            self._make_room()
            _log.info("bundle active", version=version, previous=previous)

    def load(self, version: str) -> None:
        """Load and check a bundle besides the active one.
        Raises `InvalidBundle` or `FingerprintMismatch`: as `activate`.
        Raises `InvalidConfig`: it does not fit into the memory limit with those in use."""
        with self._lock:
            self._loaded_or_load(version, must_fit=True)

    def unload(self, version: str) -> None:
        """Free a bundle; requests in progress finish with it. One that is not loaded is no error.
        Raises `InvalidConfig`: it is in use."""
        with self._lock:
            if version in self._in_use():
                raise InvalidConfig(
                    f"bundle {version!r} is in use: activate another one, or take it out of the experiment first"
                )
            self._drop(version)

    def publish(self, version: str) -> None:
        """`activate`, then make it the current one for the other processes and for the next start."""
        with self._following:  # a poll in between would return to what CURRENT still names
            self.activate(version)
            publish(self._bundles, version, self._keys())

    def follow(self, every_s: float) -> None:
        """Load the published and the wanted bundles now; later ones in a thread that polls."""
        self.poll()
        self._thread = threading.Thread(target=self._watch, args=(every_s,), name="model-host", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for runtime in self._pool.values():
            self._release(runtime)

    def poll(self) -> None:
        """Load what is newly published or wanted. What is refused is noted and changes nothing."""
        with self._following:
            self._follow_published()
        wanted = frozenset(version for wants in self.wanted for version in wants())
        if wanted != self._wanted:
            with self._lock:
                self._wanted = wanted
                for version in wanted:
                    self._refused.pop(version, None)  # requested again: worth another try
        for version in sorted(wanted - self._pool.keys() - self._refused.keys()):
            with suppress(RecsysError):  # already noted
                self.load(version)

    def _follow_published(self) -> None:
        written_ns, version = self._written_ns(), self._published()
        if version is None or version == self.active:
            return
        if written_ns != self._published_ns:
            with self._lock:
                self._refused.pop(version, None)  # published again: worth another try
        self._published_ns = written_ns
        if version not in self._refused:
            with suppress(RecsysError):  # already noted
                self.activate(version)

    def _published(self) -> str | None:
        """The version that CURRENT names. A damaged one changes nothing and is noted as refused."""
        try:
            version = current_version(self._bundles)
        except InvalidBundle as error:
            if self._refused.get(CURRENT) != str(error):
                self._refused[CURRENT] = str(error)
                _log.error("no bundle can be followed", active=self.active, reason=str(error))
            return None
        self._refused.pop(CURRENT, None)
        return version

    def _written_ns(self) -> int:
        try:
            return (self._bundles / CURRENT).stat().st_mtime_ns
        except OSError:
            return 0

    def _watch(self, every_s: float) -> None:
        while not self._stop.wait(every_s):
            try:
                self.poll()
            except Exception:
                _log.exception("polling for a new bundle failed")

    def _loaded_or_load(self, version: str, must_fit: bool) -> R:
        found = self._pool.get(version)
        if found is None:
            try:
                found = self._open(version, must_fit)
            except RecsysError as error:
                self._refused[version] = str(error)
                self._telemetry.bundle_loads.labels("refused").inc()
                _log.error("bundle refused", version=version, active=self.active, reason=str(error))
                raise
            self._pool = {**self._pool, version: found}
            self._telemetry.bundle_loads.labels("loaded").inc()
        self._refused.pop(version, None)
        self._used[version] = next(self._count)
        return found

    def _in_use(self) -> frozenset[str]:
        return self._wanted | ({self.active} if self.active else set())

    def _make_room(self, needed: int = 0) -> int:
        """Unload unused bundles, the least recently used first, until `needed` bytes more fit. Returns the bytes still
        missing."""
        spare = sorted(self._pool.keys() - self._in_use(), key=lambda version: self._used[version])
        while (missing := max(0, sum(self._bytes.values()) + needed - self._max_bytes)) and spare:
            self._drop(spare.pop(0))
        return missing

    def _drop(self, version: str) -> None:
        pool = dict(self._pool)
        runtime = pool.pop(version, None)
        if runtime is None:
            return
        self._pool = pool
        self._bytes.pop(version, None)
        self._release(runtime)
        _log.info("bundle unloaded", version=version)

    def _open(self, version: str, must_fit: bool) -> R:
        if not is_version(version):
            raise InvalidBundle(f"{version!r} is not the name of a bundle")
        bundle = open_bundle(self._bundles / version, self._keys())
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
            needed = self._weigh(bundle)
            if must_fit and self._make_room(needed):
                raise InvalidConfig(
                    f"{version}: needs about {needed >> 20} MiB besides the bundles in use, the limit for all is"
                    f" {self._max_bytes >> 20} MiB; raise RECSYS_BUNDLE_BYTES"
                )
            runtime = self._load(bundle)
        except RecsysError:
            raise
        except Exception as error:  # a library's own error: a file that it cannot read
            raise InvalidBundle(f"{version}: cannot be loaded: {type(error).__name__}: {error}") from error
        self._bytes[version] = needed
        return runtime
