"""The outbox: a record is in a file before its request is answered, and leaves the file when the log has it.

There is one path, whether Kafka is up or not: `put` appends to a segment file, a thread reads the segment and delivers
it in order. So a record survives the death of the broker and of this process; the next process that starts on the
folder adopts the segments of dead ones. After a crash a record may be delivered twice: records carry ids, and the
store applies each id once. A disk that takes no file refuses records, not the start.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from recsys.contracts.errors import InvalidEvent, Unavailable
from recsys.contracts.event_log import EventSink
from serving.ingest.segment import SUFFIX, Message, Segment, frame

_ROTATE_BYTES = 16 << 20
_READ_BYTES = 1 << 20
_BATCH = 500
_FLUSH_S = 5.0
_BACKOFF_S = (0.05, 2.0)  # first and longest wait after a failed delivery


_log = structlog.get_logger(__name__)


class Outbox:
    """Thread-safe. Several processes may share a folder; each holds a lock on its own segments.
    `put` returns when the records are in the file (and on the disk, with `fsync`). A record waits up to `linger_s` for
    others: a delivery costs client and broker about as much for one record as for a hundred."""

    def __init__(
        self, folder: Path, sink: EventSink, max_bytes: int, fsync: bool = False, linger_s: float = 0.0
    ) -> None:
        self._folder = folder
        self._sink = sink
        self._max_bytes = max_bytes
        self._fsync = fsync
        self._linger_s = linger_s
        self._flushing = 0  # callers of `flush`; nothing lingers for them
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._closing = False
        self._adopted: list[Segment] = []  # of dead processes, oldest first
        self._segments: list[Segment] = []  # ours, oldest first; the last one is written to
        self.error = ""  # why the disk took the last record, or the file for it, not
        self.failure = ""  # why the log took the last delivery not; empty: it did
        self._failing_since: float | None = None
        self._adopt()
        with suppress(Unavailable):  # in `error`; tried again with each record
            self._write(b"")
        self._thread = threading.Thread(target=self._deliver_forever, name="outbox", daemon=True)
        self._thread.start()

    def put(self, messages: Iterable[Message]) -> None:
        """Accept the records, all or none.
        Raises `Unavailable`: the spool is full or the disk refuses the write; nothing was accepted."""
        frames = b"".join(frame(message) for message in messages)
        with self._wake:
            if self._closing:
                raise Unavailable("the API is shutting down; send the request again")
            if self._backlog() + len(frames) > self._max_bytes:
                raise Unavailable("the spool is full while Kafka is away; send the request again later")
            self._write(frames)
            self._wake.notify_all()

    def _write(self, frames: bytes) -> None:
        try:
            if not self._segments or self._segments[-1].size >= _ROTATE_BYTES:
                self._segments.append(Segment.create(self._folder))
            self._segments[-1].append(frames, self._fsync)
        except Unavailable as error:
            self.error = str(error)
            raise
        self.error = ""

    @property
    def backlog_bytes(self) -> int:
        """Bytes accepted and not yet delivered."""
        with self._lock:
            return self._backlog()

    @property
    def failing_s(self) -> float:
        """For how long the log has taken no delivery; 0.0 when it does."""
        since = self._failing_since
        return 0.0 if since is None else time.monotonic() - since

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything accepted is delivered; False on a timeout."""
        with self._wake:
            self._flushing += 1
            self._wake.notify_all()
            try:
                return self._wake.wait_for(lambda: self._backlog() == 0, timeout_s)
            finally:
                self._flushing -= 1

    def close(self, timeout_s: float = 5.0) -> None:
        """Deliver what the time allows; the rest stays in the folder for the next process."""
        self.flush(timeout_s)
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join()
        for segment in self._adopted + self._segments:
            segment.close(delete=segment.unread == 0)

    def _is_pressing(self) -> bool:
        return self._closing or self._flushing > 0 or self._backlog() >= _READ_BYTES

    def _backlog(self) -> int:
        return sum(segment.unread for segment in self._adopted + self._segments)

    def _adopt(self) -> None:
        for path in sorted(self._folder.glob(f"[!.]*{SUFFIX}")):
            segment = Segment.adopt(path)
            if segment is not None:
                _log.info("adopted a spool of a process that ended", path=str(path), bytes=segment.unread)
                self._adopted.append(segment)

    def _deliver_forever(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or self._backlog() > 0)
                if self._linger_s:
                    self._wake.wait_for(self._is_pressing, self._linger_s)
                if self._closing:
                    return
                segment = next(s for s in self._adopted + self._segments if s.unread)
            try:
                messages, end = segment.read(_BATCH)
                if not self._deliver(deque(messages)):
                    return
                self._note_delivered(segment, end)
            except Exception as error:  # unexpected: it must be visible, and this thread must live
                self.failure = f"{type(error).__name__}: {error}"
                _log.exception("records cannot be delivered; they stay on disk")
                self._failing_since = self._failing_since or time.monotonic()
                with self._wake:
                    self._wake.wait_for(lambda: self._closing, _BACKOFF_S[1])

    def _deliver(self, messages: deque[Message]) -> bool:
        """Retry until the log has acknowledged all of them; False when the outbox closes first."""
        wait_s = _BACKOFF_S[0]
        while not self._closing:
            try:
                while messages:
                    self._append(messages[0])
                    messages.popleft()  # the sink has it now
                self._sink.flush(_FLUSH_S)
            except Unavailable as error:
                self.failure = str(error)
                if self._failing_since is None:
                    self._failing_since = time.monotonic()
                    _log.warning("Kafka takes no records; they stay on disk", error=str(error))
                with self._wake:
                    self._wake.wait_for(lambda: self._closing, wait_s)
                wait_s = min(2 * wait_s, _BACKOFF_S[1])
            else:
                self.failure, self._failing_since = "", None
                return True
        return False

    def _append(self, message: Message) -> None:
        try:
            self._sink.append(*message)
        except InvalidEvent as error:  # it would be refused forever, and block everything behind it
            _log.error("the log refuses a record", topic=message[0], key=message[1], error=str(error))

    def _note_delivered(self, segment: Segment, end: int) -> None:
        with self._wake:
            segment.delivered(end)
            if segment.unread == 0 and segment not in self._segments[-1:]:
                (self._adopted if segment in self._adopted else self._segments).remove(segment)
                segment.close(delete=True)
            self._wake.notify_all()


@dataclass(frozen=True)
class Outboxes:
    events: Outbox
    impressions: Outbox

    @property
    def backlog_bytes(self) -> int:
        return self.events.backlog_bytes + self.impressions.backlog_bytes

    @property
    def error(self) -> str:
        """Why the disk takes no records; empty: it does."""
        return self.events.error or self.impressions.error

    @property
    def failure(self) -> str:
        """Why the log took the last delivery not; empty: it did."""
        return self.events.failure or self.impressions.failure

    @property
    def failing_s(self) -> float:
        return max(self.events.failing_s, self.impressions.failing_s)
