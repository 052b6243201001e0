"""API keys: who may call what. Optional: without a key file no key is needed (a demo on localhost).

A key is `rk_<name>_<secret>` with 256 random bits, shown once when it is made; the file holds its SHA-256. A slow
password hash would add nothing to a key that cannot be guessed, and milliseconds to every request.
"""

import hashlib
import hmac
import re
import secrets
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from recsys.contracts.errors import InvalidConfig
from recsys.files import staged_file
from serving.problems import Problem
from serving.settings import Scope

_BEARER = {"www-authenticate": "Bearer"}
_NAME = re.compile(r"[a-z0-9-]{1,32}")
_KEY = re.compile(r"rk_([a-z0-9-]{1,32})_([A-Za-z0-9_-]{43})")


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    sha256: str
    scopes: tuple[Scope, ...]


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
    """The keys of one file; `None` as its path means that no key is needed."""

    def __init__(self, path: Path | None) -> None:
        self._entries = {entry.name: entry for entry in _read(path)} if path else None

    def caller(self, headers: Mapping[str, str]) -> Caller:
        """Who sent these headers (names in lower case).
        Raises `Problem`: 401, the same for a key that is missing, malformed, unknown or wrong."""
        if self._entries is None:
            return ANYONE
        key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        match = _KEY.fullmatch(key)
        entry = self._entries.get(match[1]) if match else None
        expected = entry.sha256 if entry else "0" * 64
        # compared even when there is no such key, so that names cannot be told apart by time
        if not hmac.compare_digest(_digest(key), expected) or entry is None:
            raise Problem(401, "send a valid API key as `X-API-Key` or `Authorization: Bearer`", _BEARER)
        return Caller(entry.name, frozenset(entry.scopes))


def new_key(path: Path, name: str, scopes: Sequence[Scope]) -> str:
    """Add a key to the file (made when there is none) and return it: the only time that it is seen.
    Raises `InvalidConfig`: the name is taken or not made of small letters, digits and dashes."""
    if not _NAME.fullmatch(name):
        raise InvalidConfig(f"key name {name!r}: use 1 to 32 small letters, digits and dashes")
    entries = _read(path) if path.exists() else []
    if any(entry.name == name for entry in entries):
        raise InvalidConfig(f"{path} has a key {name!r} already; choose another name or remove its line")
    key = f"rk_{name}_{secrets.token_urlsafe(32)}"
    entries.append(_Entry(name, _digest(key), tuple(scopes)))
    with staged_file(path) as temporary:
        temporary.touch(mode=stat.S_IRUSR | stat.S_IWUSR)
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(entries)))
    return key


def _read(path: Path) -> list[_Entry]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[_Entry])
    except FileNotFoundError:
        raise InvalidConfig(f"{path}: no such file; make one with `recsys serve --new-key NAME`") from None
    except (msgspec.DecodeError, OSError) as error:
        raise InvalidConfig(f"{path}: {error}") from error


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
