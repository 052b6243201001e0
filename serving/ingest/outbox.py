"""The outbox: a record is in a file before its request is answered, and leaves the file when the log has it.

There is one path, whether Kafka is up or not: `put` appends to a segment file, a thread reads the segment and delivers
it in order. So a record survives the death of the broker and of this process; the next process that starts on the
folder adopts the segments of dead ones. After a crash a record may be delivered twice: records carry ids, and the
store applies each id once.

A segment is a sequence of frames: u32 length, u32 CRC-32, msgpack of (topic, key, value, headers). A partly written
frame fails its CRC and ends the segment.
"""

import fcntl
import os
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from recsys.contracts.errors import InvalidEvent, Unavailable
from recsys.contracts.event_log import EventSink
from recsys.contracts.events import new_id

_FRAME = struct.Struct("<II")
_SUFFIX = ".outbox"
_ROTATE_BYTES = 16 << 20
_READ_BYTES = 1 << 20
_BATCH = 500
_FLUSH_S = 5.0
_BACKOFF_S = (0.05, 2.0)  # first and longest wait after a failed delivery


class Message(NamedTuple):
    """One record on its way to the log."""

    topic: str
    key: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


_log = structlog.get_logger(__name__)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


class Outbox:
    """Thread-safe. Several processes may share a folder; each holds a lock on its own segments.
    `put` returns when the records are in the file (and on the disk, with `fsync`). A record waits up to `linger_s` for
    others: a delivery costs client and broker about as much for one record as for a hundred."""

    def __init__(
        self, folder: Path, sink: EventSink, max_bytes: int, fsync: bool = False, linger_s: float = 0.0
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._sink = sink
        self._max_bytes = max_bytes
        self._fsync = fsync
        self._linger_s = linger_s
        self._flushing = 0  # callers of `flush`; nothing lingers for them
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._closing = False
        self._segments: list[_Segment] = []  # oldest first; the last one is written to
        self._failing_since: float | None = None
        self._adopt()
        self._segments.append(_Segment.create(folder))
        self._thread = threading.Thread(target=self._deliver_forever, name="outbox", daemon=True)
        self._thread.start()

    def put(self, messages: Iterable[Message]) -> None:
        """Accept the records, all or none.
        Raises `Unavailable`: the spool is full or the disk refuses the write; nothing was accepted."""
        frames = b"".join(_frame(message) for message in messages)
        with self._wake:
            if self._closing:
                raise Unavailable("the API is shutting down; send the request again")
            if self._backlog() + len(frames) > self._max_bytes:
                raise Unavailable("the spool is full while Kafka is away; send the request again later")
            if self._segments[-1].size >= _ROTATE_BYTES:
                self._segments.append(_Segment.create(self._folder))
            self._segments[-1].append(frames, self._fsync)
            self._wake.notify_all()

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
        for segment in self._segments:
            segment.close(delete=segment.unread == 0)

    def _is_pressing(self) -> bool:
        return self._closing or self._flushing > 0 or self._backlog() >= _READ_BYTES

    def _backlog(self) -> int:
        return sum(segment.unread for segment in self._segments)

    def _adopt(self) -> None:
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            segment = _Segment.adopt(path)
            if segment is not None:
                _log.info("adopted a spool of a process that ended", path=str(path), bytes=segment.unread)
                self._segments.append(segment)

    def _deliver_forever(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or self._backlog() > 0)
                if self._linger_s:
                    self._wake.wait_for(self._is_pressing, self._linger_s)
                if self._closing:
                    return
                segment = next(s for s in self._segments if s.unread)
            try:
                messages, end = segment.read(_BATCH)
                if not self._deliver(deque(messages)):
                    return
            except Exception:  # unexpected: it must be visible, and this thread must live
                _log.exception("records cannot be delivered; they stay on disk")
                self._failing_since = self._failing_since or time.monotonic()
                with self._wake:
                    self._wake.wait_for(lambda: self._closing, _BACKOFF_S[1])
            else:
                self._note_delivered(segment, end)

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
                if self._failing_since is None:
                    self._failing_since = time.monotonic()
                    _log.warning("Kafka takes no records; they stay on disk", error=str(error))
                with self._wake:
                    self._wake.wait_for(lambda: self._closing, wait_s)
                wait_s = min(2 * wait_s, _BACKOFF_S[1])
            else:
                self._failing_since = None
                return True
        return False

    def _append(self, message: Message) -> None:
        try:
            self._sink.append(*message)
        except InvalidEvent as error:  # it would be refused forever, and block everything behind it
            _log.error("the log refuses a record", topic=message[0], key=message[1], error=str(error))

    def _note_delivered(self, segment: "_Segment", end: int) -> None:
        with self._wake:
            segment.delivered(end)
            if segment is not self._segments[-1] and segment.unread == 0:
                self._segments.remove(segment)
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
    def failing_s(self) -> float:
        return max(self.events.failing_s, self.impressions.failing_s)


class _Segment:
    """One file: written at `size`, delivered up to `position`. Locked while a process owns it."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self._path = path
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        self.position = 0

    @classmethod
    def create(cls, folder: Path) -> "_Segment":
        """Raises `Unavailable`: no file can be created."""
        path = folder / f"{new_id()}{_SUFFIX}"
        try:
            file = path.open("x+b", buffering=0)
        except OSError as error:
            raise _unwritable(error) from error
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return cls(path, file)

    @classmethod
    def adopt(cls, path: Path) -> "_Segment | None":
        """Take over the file of a dead process; None when its process lives."""
        try:
            file = path.open("r+b", buffering=0)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return None
        segment = cls(path, file)
        if not path.exists():  # deleted by its owner between open and lock
            file.close()
            return None
        return segment

    @property
    def unread(self) -> int:
        return self.size - self.position

    def append(self, frames: bytes, fsync: bool) -> None:
        try:
            written = os.pwrite(self._file.fileno(), frames, self.size)
            if written != len(frames):
                raise OSError("the disk is full")
            if fsync:
                os.fdatasync(self._file.fileno())
        except OSError as error:
            raise _unwritable(error) from error
        self.size += len(frames)

    def read(self, limit: int) -> tuple[list[Message], int]:
        """Up to `limit` undelivered records, and the position after them."""
        end = self.size  # the writer only appends
        block = self._block(end)
        messages: list[Message] = []
        used = 0
        for message, length in _messages(block):
            messages.append(message)
            used += length
            if len(messages) == limit:
                break
        if not messages:
            _log.error("a spool ends in a partly written record", path=str(self._path))
            return [], end
        return messages, self.position + used

    def _block(self, end: int) -> bytes:
        """The next bytes: at least one whole frame."""
        header = os.pread(self._file.fileno(), _FRAME.size, self.position)
        first = _FRAME.size + _FRAME.unpack(header)[0] if len(header) == _FRAME.size else 0
        length = min(end - self.position, max(_READ_BYTES, first))
        return os.pread(self._file.fileno(), length, self.position)

    def delivered(self, position: int) -> None:
        """Note what the log has; a fully delivered segment is truncated."""
        self.position = position
        if self.position == self.size:
            os.ftruncate(self._file.fileno(), 0)
            self.position = self.size = 0

    def close(self, delete: bool) -> None:
        if delete:
            self._path.unlink(missing_ok=True)
        self._file.close()


def _unwritable(error: OSError) -> Unavailable:
    return Unavailable(f"the spool cannot be written ({error.strerror or error}); try again later")


def _frame(message: Message) -> bytes:
    payload = _encode(message)
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _messages(block: bytes) -> Iterator[tuple[Message, int]]:
    start = 0
    while start + _FRAME.size <= len(block):
        length, crc = _FRAME.unpack_from(block, start)
        payload = block[start + _FRAME.size : start + _FRAME.size + length]
        if not length or len(payload) != length or zlib.crc32(payload) != crc:
            return  # zeros, as after a power loss, pass the checksum, but no record is empty
        yield _decode(payload), _FRAME.size + length
        start += _FRAME.size + length
