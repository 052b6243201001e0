"""Cursors of paged lists: what this user has been shown on the pages before, signed, held by the client.

Each page is a new answer with everything shown before left out, so a page never repeats an item, whatever the user
does or which process answers in between; nothing is stored. The signature keeps clients from making cursors of their
own, for a cursor is read without the limits of a request body.
"""

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from recsys.contracts.errors import InvalidConfig
from serving.problems import Problem

MAX_SHOWN = 1_000  # items over all pages: what recall reaches is not much deeper
_KEY_BYTES = 32
_MAC_BYTES = 16
_START = "leave the cursor out, or send an empty one, to begin anew"


class _Content(msgspec.Struct, frozen=True, array_like=True):
    made_ms: int
    user_id: str
    shown: tuple[str, ...]


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(_Content)


class Cursors:
    """Makes cursors and reads them back, for `ttl_ms` milliseconds."""

    def __init__(self, key: bytes, ttl_ms: int) -> None:
        self._key = key
        self._ttl_ms = ttl_ms

    def make(self, user_id: str, shown: Sequence[str], now_ms: int) -> str | None:
        """The cursor of the page after these items; None when there have been too many to go on."""
        if len(shown) > MAX_SHOWN:
            return None
        content = _encode(_Content(now_ms, user_id, tuple(shown)))
        return base64.urlsafe_b64encode(self._mac(content) + content).decode().rstrip("=")

    def shown(self, cursor: str, user_id: str, now_ms: int) -> tuple[str, ...]:
        """The items of the pages before; none for the empty cursor, which begins a list.

        Raises:
            Problem: 410 when it is too old; 422 when it is not one of ours, or another user's.
        """
        if not cursor:
            return ()
        try:
            signed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            signed = b""
        mac, content = signed[:_MAC_BYTES], signed[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(content)):
            raise Problem(422, f"cursor: not one that this API has made, or altered since; {_START}")
        found = _decoder.decode(content)
        if found.user_id != user_id:
            raise Problem(422, f"cursor: made for another user; {_START}")
        if now_ms - found.made_ms > self._ttl_ms:
            raise Problem(410, f"cursor: older than {self._ttl_ms // 1000} s; {_START}")
        return found.shown

    def _mac(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, hashlib.sha256)[:_MAC_BYTES]


def cursor_key(path: Path) -> bytes:
    """The key in this file; made when there is none. Processes that start at once agree on one.

    Raises:
        InvalidConfig: the file is too short to be a key.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=path.parent)  # readable by its owner only
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        try:
            os.link(aside, path)
        except FileExistsError:
            pass  # another process was first
        finally:
            Path(aside).unlink()
    key = path.read_bytes()
    if len(key) < _KEY_BYTES:
        raise InvalidConfig(
            f"{path}: a key has at least {_KEY_BYTES} bytes; remove the file to get a new one"
        )
    return key
