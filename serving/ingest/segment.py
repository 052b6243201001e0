"""A segment of the spool: a file of records, written at its end and delivered from its beginning.

It is a sequence of frames: u32 length, u32 CRC-32, msgpack of (topic, key, value, headers). A partly written frame
fails its CRC and ends the segment.
"""

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from recsys.contracts.errors import Unavailable
from recsys.contracts.events import new_id
from recsys.files import atomic_write

SUFFIX = ".outbox"
_DAMAGED = ".damaged"  # what could not be read of a segment, for people
_FRAME = struct.Struct("<II")
_READ_BYTES = 1 << 20


class Message(NamedTuple):
    """One record on its way to the log."""

    topic: str
    key: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


_log = structlog.get_logger(__name__)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


class Segment:
    """One file: written at `size`, delivered up to `position`. Locked while a process owns it."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self._path = path
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        self.position = 0

    @classmethod
    def create(cls, folder: Path) -> "Segment":
        """Raises `Unavailable`: no file can be created."""
        path = folder / f"{new_id()}{SUFFIX}"
        unlocked = path.with_name(f".{path.name}.new")  # nobody adopts it between its creation and its lock
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = unlocked.open("x+b", buffering=0)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unlocked.rename(path)
        except OSError as error:
            raise unwritable(error) from error
        return cls(path, file)

    @classmethod
    def adopt(cls, path: Path) -> "Segment | None":
        """Take over the file of a dead process; None when its process lives, or when it is no file of ours."""
        try:
            # a link could name any file, and a pipe would wait for its writer
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                _log.error(
                    "a spool cannot be adopted; its records wait", path=str(path), error=error.strerror
                )
            return None
        file = FileIO(handle, "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            segment = cls(path, file)
            if path.is_file():  # else deleted by its owner between open and lock, or no regular file
                return segment
        except OSError:
            pass
        file.close()
        return None

    @property
    def unread(self) -> int:
        return self.size - self.position

    def append(self, frames: bytes, fsync: bool) -> None:
        """Raises `Unavailable`: the disk refuses the write; nothing was appended."""
        try:
            written = os.pwrite(self._file.fileno(), frames, self.size)
            if written != len(frames):
                raise OSError("the disk is full")
            if fsync:
                os.fdatasync(self._file.fileno())
        except OSError as error:
            raise unwritable(error) from error
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
            self._set_aside(end)
            return [], end
        return messages, self.position + used

    def _set_aside(self, end: int) -> None:
        """Keep what cannot be read: a partly written record was never answered, but this may be more than one."""
        rest = os.pread(self._file.fileno(), end - self.position, self.position)
        if not rest.strip(b"\0"):  # zeros, as after a power loss
            return
        aside = self._path.with_name(self._path.name + _DAMAGED)
        _log.error("a spool ends in what is no record; it is kept", path=str(aside), bytes=len(rest))
        try:
            atomic_write(aside, rest)
        except OSError as error:
            _log.error("it cannot be kept", path=str(aside), error=error.strerror)

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


def unwritable(error: OSError) -> Unavailable:
    return Unavailable(f"the spool cannot be written ({error.strerror or error}); try again later")


def frame(message: Message) -> bytes:
    """The record as its segment has it."""
    payload = _encode(message)
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _messages(block: bytes) -> Iterator[tuple[Message, int]]:
    start = 0
    while start + _FRAME.size <= len(block):
        length, crc = _FRAME.unpack_from(block, start)
        payload = block[start + _FRAME.size : start + _FRAME.size + length]
        if not length or len(payload) != length or zlib.crc32(payload) != crc:
            return  # zeros, as after a power loss, pass the checksum, but no record is empty
        try:
            message = _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):  # of another program
            return
        yield message, _FRAME.size + length
        start += _FRAME.size + length
