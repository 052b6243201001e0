"""The impression log, the last stage of the request path: it queues impressions, a thread encodes and spools them."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import compress

import structlog
from msgspec.structs import replace

from recsys.contracts.errors import Unavailable
from recsys.contracts.impression_record import impression_record
from recsys.contracts.impressions import Impression, ShownItem
from recsys.contracts.request import ABSENT, Answer, bare
from recsys.contracts.types import Topic
from recsys.items.catalogue import Catalogue
from recsys.observability.tracing import Headers, current_headers
from serving.ingest.outbox import Outbox
from serving.ingest.segment import Message
from serving.telemetry import Telemetry

_BATCH = 100
_LINGER_S = 0.05  # waking a thread for each answer would cost the answers processor time
_log = structlog.get_logger(__name__)
_Queued = tuple[Callable[[], Impression], Headers]
Put = Callable[[Callable[[], Impression], Headers], None]


class ImpressionWriter:
    """Takes impressions from any thread; builds, encodes and spools them in its own.
    At most `limit` wait in memory; when the spool cannot take them (full disk, Kafka away for hours) they are dropped
    and counted: an answer must not wait for its impression."""

    def __init__(self, outbox: Outbox, telemetry: Telemetry, limit: int = 5_000) -> None:
        self._outbox = outbox
        self._logged = telemetry.impressions
        self._dropped = telemetry.impressions_dropped
        self._queue: queue.Queue[_Queued | None] = queue.Queue(limit)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_forever, name="impressions", daemon=True)
        self._thread.start()

    def put(self, impression: Callable[[], Impression], headers: Headers = ()) -> None:
        """Queue an impression that is built later; never waits. `headers`: of its record.
        Raises `Unavailable`: the queue is full."""
        try:
            self._queue.put_nowait((impression, headers))
        except queue.Full:
            self._dropped.inc()
            raise Unavailable("the impression log is full") from None

    def close(self) -> None:
        """Write what is queued and stop."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join()

    def _write_forever(self) -> None:
        while self._write_next():
            pass

    def _write_next(self) -> bool:
        """Write what is queued; False: stop. While it waits for the first, it keeps no bundle's catalogue alive."""
        batch = [self._queue.get()]
        if self._queue.qsize() < _BATCH:
            self._closing.wait(_LINGER_S)
        while len(batch) < _BATCH and not self._queue.empty():
            batch.append(self._queue.get())
        self._write(list(self._messages(batch)))
        return None not in batch

    def _messages(self, batch: Sequence[_Queued | None]) -> Iterator[Message]:
        """A failing impression must not end the thread, and every later one with it."""
        for make, headers in filter(None, batch):
            try:
                impression = make()
                value = impression_record(impression)
            except Exception:
                self._dropped.inc()
                _log.exception("an impression cannot be built")
            else:
                narrowed = impression.narrowed_from < len(impression.items)
                self._logged.labels("narrowed" if narrowed else "usual").inc()
                yield Message(Topic.IMPRESSIONS, impression.user_id, value, headers)

    def _write(self, messages: Sequence[Message]) -> None:
        try:
            self._outbox.put(messages)
        except Unavailable as error:
            self._dropped.inc(len(messages))
            _log.warning("impressions dropped", count=len(messages), error=str(error))


class ImpressionLog:
    """Side effect of the pipeline: one record per answered request."""

    name = "impression_log"
    optional = True

    def __init__(self, put: Put, catalogue: Catalogue, bundle: str, fingerprint: str) -> None:
        self._put = put  # `ImpressionWriter.put`
        self._catalogue = catalogue
        self._bundle = bundle
        self._fingerprint = fingerprint

    def after(self, answer: Answer) -> None:
        if len(answer.candidates):
            kept = replace(answer, query=bare(answer.query), explanation=None)
            self._put(partial(self.impression, kept), current_headers())

    def impression(self, answer: Answer) -> Impression:
        query, shown = answer.query, answer.candidates
        lines = zip(
            map(self._catalogue.item, shown.rows.tolist()),
            shown.score.tolist(),
            answer.propensities.tolist(),
            (shown.ranks != ABSENT).tolist(),
            strict=True,
        )
        return Impression(
            request_id=query.request_id,
            user_id=query.user_id,
            time_ms=query.now_ms,
            bundle=self._bundle,
            fingerprint=self._fingerprint,
            items=[
                ShownItem(
                    item_id=item.item_id,
                    position=position,
                    score=score,
                    propensity=propensity,
                    channels=tuple(compress(shown.channels, found)),
                    categories=item.categories,
                    creator=item.creator,
                )
                for position, (item, score, propensity, found) in enumerate(lines)
            ],
            features=shown.features,
            arm=query.arm,
            context=dict(query.context),
            narrowed_from=query.narrowed_from,
        )
