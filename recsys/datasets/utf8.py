"""Text files of any encoding as UTF-8, with marks where bytes are no text."""

import codecs
from pathlib import Path

NOT_TEXT = "\ufdd0"  # a code point that Unicode keeps out of all text
_MARK = "recsys-not-text"


class Utf8File:
    """A binary file, in UTF-8 whatever its encoding; bytes that are no text become `NOT_TEXT`.

    pyarrow would refuse the whole file for one bad byte, and lose a row that is malformed as well.
    """

    def __init__(self, path: Path, encoding: str) -> None:
        self._file = path.open("rb")
        self._decoder = codecs.getincrementaldecoder(encoding)(errors=_MARK)
        self._ready = b""
        self._end = False

    @property
    def closed(self) -> bool:
        return self._file.closed

    def readable(self) -> bool:
        return True

    def read(self, size: int) -> bytes:
        while len(self._ready) < size and not self._end:
            raw = self._file.read(size)
            self._end = not raw
            self._ready += self._decoder.decode(raw, final=self._end).encode()
        given, self._ready = self._ready[:size], self._ready[size:]
        return given

    def close(self) -> None:
        self._file.close()


def _mark(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return NOT_TEXT, error.end


codecs.register_error(_MARK, _mark)
