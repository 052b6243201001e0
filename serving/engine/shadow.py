"""The shadow bundle receives mirrored traffic; its responses are compared with those that were shown, then discarded.

One thread takes a sample of the requests after they are answered, and leaves out what it has no time for. The shadow's
answers have no side effects: nothing is logged as shown. The file `bundles/SHADOW` names the bundle, so all processes
follow it, also after a restart.
"""

import queue
import threading
import time
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import structlog
from pydantic import BaseModel, Field

from recsys.bundle import named_version
from recsys.contracts.errors import InvalidBundle, RecsysError
from recsys.contracts.request import Answer, Status
from recsys.files import atomic_write
from serving.engine.model_host import ModelHost
from serving.engine.runtime import Runtime
from serving.telemetry import Telemetry

FILE = "SHADOW"
_QUEUE = 100  # requests that wait for the shadow
_ITEMS = 2_000  # items whose gains and losses are counted
_DISTINCT = 20_000  # items that are told apart
_TOP = 10
_Scores = dict[str, float]  # by item, the first item first
_log = structlog.get_logger(__name__)


def set_shadow(bundles: Path, version: str | None) -> None:
    """Make this version the shadow of all processes; None: no shadow."""
    if version is None:
        (bundles / FILE).unlink(missing_ok=True)
        return
    atomic_write(bundles / FILE, version + "\n")


class ItemChange(BaseModel):
    item_id: str
    lists: int


class ShadowReport(BaseModel):
    """How the shadow's lists differ from those that were shown, in this process, since the pair of bundles became
    current. Means are 0 before the first request."""

    active: str
    shadow: str
    requests: int
    failed: int
    left_out: int = Field(description="requests of the sample for which the shadow had no time")
    identical_share: float
    same_first_share: float
    overlap_mean: float = Field(description="share of the items that both lists have")
    score_difference_mean: float = Field(description="absolute, of the items that both lists have")
    ms_mean: float
    shadow_ms_mean: float
    distinct_items: int = Field(description="in the lists that were shown; counted up to 20,000")
    shadow_distinct_items: int
    last_error: str
    gains: list[ItemChange] = Field(description="items that would be in more lists")
    losses: list[ItemChange] = Field(description="items that would be in fewer lists")


@dataclass
class Difference:
    """Sums over the requests so far. `changes`: item → lists that it would enter, less those that it would leave."""

    active: str
    shadow: str
    requests: int = 0
    failed: int = 0
    left_out: int = 0
    identical: int = 0
    same_first: int = 0
    overlap_sum: float = 0.0
    score_difference_sum: float = 0.0
    compared_items: int = 0
    ms_sum: float = 0.0
    shadow_ms_sum: float = 0.0
    last_error: str = ""
    items: set[str] = field(default_factory=set)
    shadow_items: set[str] = field(default_factory=set)
    changes: Counter[str] = field(default_factory=Counter)

    def report(self) -> ShadowReport:
        n = max(1, self.requests)
        ordered = self.changes.most_common()
        same = ("active", "shadow", "requests", "failed", "left_out", "last_error")
        return ShadowReport(
            **{name: getattr(self, name) for name in same},
            identical_share=self.identical / n,
            same_first_share=self.same_first / n,
            overlap_mean=self.overlap_sum / n,
            score_difference_mean=self.score_difference_sum / max(1, self.compared_items),
            ms_mean=self.ms_sum / n,
            shadow_ms_mean=self.shadow_ms_sum / n,
            distinct_items=len(self.items),
            shadow_distinct_items=len(self.shadow_items),
            gains=[ItemChange(item_id=i, lists=n) for i, n in ordered[:_TOP] if n > 0],
            losses=[ItemChange(item_id=i, lists=-n) for i, n in ordered[::-1][:_TOP] if n < 0],
        )


class Shadow:
    """Thread-safe. `share` of the requests are taken at even distances, not at random."""

    def __init__(self, bundles: Path, host: ModelHost[Runtime], share: float, telemetry: Telemetry) -> None:
        self._bundles = bundles
        self._host = host
        self._share = share
        self._telemetry = telemetry
        self._owed = 0.0
        self._queue: queue.Queue[tuple[Runtime, Answer] | None] = queue.Queue(_QUEUE)
        self._lock = threading.Lock()
        self._difference: Difference | None = None
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        host.wanted.append(self._wanted)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Drop what waits, and stop."""
        with suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()

    @property
    def version(self) -> str | None:
        try:
            return named_version(self._bundles / FILE)
        except InvalidBundle:  # damaged: as if there were none
            return None

    def offer(self, runtime: Runtime, answer: Answer) -> None:
        """Take a share of the answers; never waits. A degraded answer says nothing about a bundle."""
        difference = self._difference
        if difference is None or answer.degraded:
            return
        self._owed += self._share  # a lost update between two threads takes one request less
        if self._owed < 1:
            return
        self._owed -= 1
        try:
            self._queue.put_nowait((runtime, answer))
        except queue.Full:
            with self._lock:
                difference.left_out += 1

    def report(self) -> ShadowReport | None:
        """None without a shadow."""
        with self._lock:
            return self._difference.report() if self._difference else None

    def _wanted(self) -> Collection[str]:
        """Called by the host with each poll: follow the file, start from zero when the pair has changed."""
        version, active = self.version, self._host.active
        pair = (active, version) if version and active and version != active else None
        with self._lock:
            old = self._difference
            if pair != ((old.active, old.shadow) if old else None):
                self._difference = Difference(*pair) if pair else None
        return (version,) if pair and version else ()

    def _work(self) -> None:
        while self._work_on_next():
            pass

    def _work_on_next(self) -> bool:
        """False: stop. While it waits, it keeps no runtime alive."""
        taken = self._queue.get()
        if taken is None:
            return False
        difference, (runtime, answer) = self._difference, taken
        if difference is None or runtime.bundle.manifest.version != difference.active:
            return True  # of an arm, or from before a swap
        if runtime is not self._host.runtime():
            return True  # of an arm's own request path
        other = self._host.runtime(difference.shadow)
        if other is None:  # not loaded yet
            with self._lock:
                difference.left_out += 1
        else:
            self._compare(difference, runtime, answer, other)
        return True

    def _compare(self, difference: Difference, runtime: Runtime, answer: Answer, other: Runtime) -> None:
        pipeline = replace(other.pipeline, side_effects=())
        query = msgspec.structs.replace(
            answer.query, deadline_s=float("inf"), explain=False, for_device=False
        )
        began = time.perf_counter()
        try:
            mirrored = pipeline.answer(query)
        except RecsysError as error:
            self._note_failure(difference, str(error))
            return
        except Exception as error:
            _log.exception("the shadow failed", version=difference.shadow)
            self._note_failure(difference, f"{type(error).__name__}: {error}")
            return
        if mirrored.degraded:  # not what the bundle would have shown
            errors = (f"{o.stage}: {o.error}" for o in mirrored.outcomes if o.status is not Status.OK)
            self._note_failure(difference, "; ".join(errors))
            return
        shadow_ms = (time.perf_counter() - began) * 1e3
        ms = sum(outcome.ms for outcome in answer.outcomes)
        self._note(difference, _scores(runtime, answer), _scores(other, mirrored), ms, shadow_ms)

    def _note_failure(self, difference: Difference, error: str) -> None:
        with self._lock:
            difference.failed += 1
            difference.last_error = error
        self._telemetry.shadow.labels("failed").inc()

    def _note(
        self, difference: Difference, shown: _Scores, instead: _Scores, ms: float, shadow_ms: float
    ) -> None:
        both = shown.keys() & instead.keys()
        identical = list(shown) == list(instead)
        with self._lock:
            difference.requests += 1
            difference.identical += identical
            difference.same_first += next(iter(shown), None) == next(iter(instead), None)
            difference.overlap_sum += len(both) / max(1, len(shown), len(instead))
            difference.score_difference_sum += sum(abs(shown[item] - instead[item]) for item in both)
            difference.compared_items += len(both)
            difference.ms_sum += ms
            difference.shadow_ms_sum += shadow_ms
            if max(len(difference.items), len(difference.shadow_items)) < _DISTINCT:
                difference.items.update(shown)  # both or none: they are compared
                difference.shadow_items.update(instead)
            difference.changes.update(instead.keys() - both)
            difference.changes.subtract(shown.keys() - both)
            if len(difference.changes) > _ITEMS:
                largest = sorted(difference.changes.items(), key=lambda change: -abs(change[1]))
                difference.changes = Counter(dict(largest[: _ITEMS // 2]))
        self._telemetry.shadow.labels("identical" if identical else "different").inc()


def _scores(runtime: Runtime, answer: Answer) -> _Scores:
    shown = answer.candidates
    return dict(zip(runtime.catalogue.ids(shown.rows.tolist()), shown.score.tolist(), strict=True))
