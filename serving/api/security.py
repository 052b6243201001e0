"""API keys: who may call what. Optional: without a key file no key is needed (a demo on localhost).

A key is `rk_<name>_<secret>` with 256 random bits, shown once when it is made; the file holds its SHA-256. A slow
password hash would add nothing to a key that cannot be guessed, and milliseconds to every request. The file is read
again when it changes: a key is revoked by removing its entry.
"""

import binascii
import hashlib
import hmac
import re
import secrets
import stat
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from recsys.contracts.errors import InvalidConfig
from recsys.files import staged_file
from recsys.operator_files import read_json
from recsys.watched_file import WatchedFile
from serving.problems import Problem
from serving.settings import Scope

_BEARER = {"www-authenticate": "Bearer"}
_BASIC = {"www-authenticate": 'Basic realm="recsys: the key is the password", charset="UTF-8"'}
_NAME = re.compile(r"[a-z0-9-]{1,32}")
_KEY = re.compile(r"rk_([a-z0-9-]{1,32})_([A-Za-z0-9_-]{43})")


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    name: Annotated[str, Meta(pattern=f"^{_NAME.pattern}$")]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...]
    expires: Annotated[datetime, Meta(tz=True)] | None = None  # None: never


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the key's name, empty when no keys are needed."""

    name: str
    scopes: frozenset[Scope]

    def allow(self, scope: Scope) -> None:
        """Raises `Problem`: 403 when the key lacks the scope."""
        if scope not in self.scopes and Scope.ADMIN not in self.scopes:
            raise Problem(403, f"the key {self.name!r} lacks the scope {str(scope)!r}")


ANYONE = Caller("", frozenset(Scope))


class Keys:
    """The keys of one file; `None` as its path means that no key is needed. A file that becomes invalid changes
    nothing: `error` says why."""

    def __init__(self, path: Path | None, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._file = WatchedFile(path, _by_name) if path else None
        self._now = now

    @property
    def error(self) -> str:
        return self._file.error if self._file else ""

    def caller(self, headers: Mapping[str, str], basic: bool = False) -> Caller:
        """Who sent these headers (names in lower case).

        Args:
            basic: accept the key as the password of HTTP Basic, too, and ask for that. Only for pages: browsers add it
                to requests that other sites make.

        Raises:
            Problem: 401, the same for a key that is missing, malformed, unknown, wrong or revoked. It names a right one
                that has expired.
        """
        if self._file is None:
            return ANYONE
        entries = self._file.value
        key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        if basic and key.startswith("Basic "):
            key = _password(key.removeprefix("Basic "))
        match = _KEY.fullmatch(key)
        entry = entries.get(match[1]) if match else None
        expected = entry.sha256 if entry else "0" * 64
        # compared even when there is no such key, so that names cannot be told apart by time
        if not hmac.compare_digest(_digest(key), expected) or entry is None:
            ask = _BASIC if basic else _BEARER
            raise Problem(401, "send a valid API key as `X-API-Key` or `Authorization: Bearer`", ask)
        if entry.expires is not None and self._now() >= entry.expires:
            raise Problem(401, f"the key {entry.name!r} has expired; ask for a new one", _BEARER)
        return Caller(entry.name, frozenset(entry.scopes))


def new_key(path: Path, name: str, scopes: Sequence[Scope], lifetime: timedelta | None = None) -> str:
    """Add a key to the file (made when there is none) and return it: the only time that it is seen. `lifetime`: None if
    it never expires.
    Raises `InvalidConfig`: the name is taken or not made of small letters, digits and dashes."""
    if not _NAME.fullmatch(name):
        raise InvalidConfig(f"key name {name!r}: use 1 to 32 small letters, digits and dashes")
    entries = _read(path) if path.exists() else []
    if any(entry.name == name for entry in entries):
        raise InvalidConfig(f"{path} has a key {name!r} already; choose another name or remove its line")
    key = f"rk_{name}_{secrets.token_urlsafe(32)}"
    expires = datetime.now(UTC).replace(microsecond=0) + lifetime if lifetime else None
    entries.append(_Entry(name, _digest(key), tuple(scopes), expires))
    with staged_file(path) as temporary:
        temporary.touch(mode=stat.S_IRUSR | stat.S_IWUSR)
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(entries)))
    return key


def _read(path: Path) -> list[_Entry]:
    try:
        return read_json(path, list[_Entry], InvalidConfig)
    except FileNotFoundError:
        raise InvalidConfig(f"{path}: no such file; make one with `recsys serve --new-key NAME`") from None
    except InvalidConfig as error:
        raise InvalidConfig(f"not a key file of `recsys serve --new-key`: {error}") from error


def _by_name(path: Path) -> dict[str, _Entry]:
    entries = _read(path)
    found = {entry.name: entry for entry in entries}
    if len(found) < len(entries):
        raise InvalidConfig(f"{path}: two keys have the same name; rename or remove one")
    return found


def _password(credentials: str) -> str:
    """Of HTTP Basic; empty when they are malformed."""
    try:
        return b64decode(credentials, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
