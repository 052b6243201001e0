"""Cursors of paged lists: what the user has been shown on earlier pages, signed, held by the client.

Each page is a new answer that leaves out everything shown before, so a page never repeats an item, whatever the user
does or whichever process answers in between; nothing is stored. The signature keeps clients from making their own
cursors, which would be read without the limits of a request body.
"""

import hashlib
import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path

from itsdangerous import BadData, URLSafeSerializer

from recsys.contracts.errors import InvalidConfig
from recsys.operator_files import read_bytes
from serving.problems import Problem

MAX_SHOWN = 1_000  # items over all pages: recall does not reach much deeper
_KEY_BYTES = 32
_MAX_KEY_BYTES = 4_096
_START = "leave the cursor out, or send an empty one, to start again"


class Cursors:
    """Makes cursors and reads them back, for `ttl_ms` milliseconds."""

    def __init__(self, key: bytes, ttl_ms: int) -> None:
        signing = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
        self._serializer = URLSafeSerializer(key, salt="cursor", signer_kwargs=signing)
        self._ttl_ms = ttl_ms

    def make(self, user_id: str, shown: Sequence[str], now_ms: int) -> str | None:
        """The cursor that continues after these items; None when there have been too many."""
        if len(shown) > MAX_SHOWN:
            return None
        cursor: str = self._serializer.dumps([now_ms, user_id, *shown])
        return cursor

    def shown(self, cursor: str, user_id: str, now_ms: int) -> tuple[str, ...]:
        """The items of earlier pages; none for the empty cursor, which starts a list.
        Raises `Problem`: 410 when it is too old; 422 when it is not one of ours, or another user's."""
        if not cursor:
            return ()
        try:
            made_ms, owner, *shown = self._serializer.loads(cursor)
        except BadData:
            raise Problem(422, f"cursor: not one that this API made, or altered since; {_START}") from None
        if owner != user_id:
            raise Problem(422, f"cursor: made for another user; {_START}")
        if now_ms - made_ms > self._ttl_ms:
            raise Problem(410, f"cursor: older than {self._ttl_ms // 1000} s; {_START}")
        return tuple(shown)


def cursor_key(path: Path) -> bytes:
    """The key in this file; created when there is none. Processes that start at once agree on one.
    Raises `InvalidConfig`: the file is too short to be a key, or cannot be read or made."""
    try:
        if not path.exists():
            _create(path)
        key = read_bytes(path, InvalidConfig, _MAX_KEY_BYTES)
    except OSError as error:
        raise InvalidConfig(f"{path}: {error.strerror}; set RECSYS_CURSOR_KEY to a key file") from error
    if len(key) < _KEY_BYTES:
        raise InvalidConfig(f"{path}: a key has at least {_KEY_BYTES} bytes; remove the file for a new one")
    return key


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent)  # readable by its owner only
    with os.fdopen(handle, "wb") as file:
        file.write(secrets.token_bytes(_KEY_BYTES))
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process was first
    finally:
        Path(temporary).unlink()
