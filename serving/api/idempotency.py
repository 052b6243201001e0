"""`Idempotency-Key`: a request that is sent again has one effect, and gets the answer of the first.

Events store no answer: the ids that the server makes for them follow from the key, so the answer is the same in every
process, with Redis away too, and the store applies each id once. Only the time of the first attempt is stored, for
events without a time. Changes of items and users store their answer for a day, so that a late retry does not undo a
newer change. If the first attempt failed between its effect and its answer, the retry repeats it with the first
attempt's time: older than what came in between, it changes nothing.
"""

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import msgspec
from starlette.requests import Request

from recsys.contracts.errors import Unavailable
from recsys.contracts.events import new_id
from recsys.store.replays import Replays
from serving.problems import Problem

HEADER = "idempotency-key"
REPLAYED = {"idempotency-replayed": "true"}
PATTERN = r"^[\x21-\x7e]{1,128}$"
_KEY = re.compile(PATTERN)


class _Record(msgspec.Struct, array_like=True):
    body_digest: bytes
    content: bytes  # the answer, or the time of the first attempt


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(_Record)


def key_of(request: Request) -> str:
    """The header, empty when there is none.
    Raises `Problem`: 422 when it is longer than 128 characters, or not printable ASCII."""
    key: str = request.headers.get(HEADER, "")
    if key and not _KEY.fullmatch(key):
        raise Problem(422, "idempotency-key: 1 to 128 printable ASCII characters without spaces are needed")
    return key


def event_ids(caller: str, key: str, body: bytes) -> Callable[[int], str]:
    """The ids of events that come without one, by their place in the body: new ones or, under a key, the same whenever
    this body comes again. A different body under the same key is a different request."""
    if not key:
        return lambda place: new_id()
    name = _digest(caller.encode(), key.encode(), body).hex()
    return lambda place: f"{name}-{place}"


class Attempt(NamedTuple):
    """When a request came first, and whether it was begun before: its work may have been done."""

    now_ms: int
    repeated: bool


class Idempotency:
    """What has been done under which key. `replays` is shared by all processes."""

    def __init__(self, replays: Replays, now_ms: Callable[[], int]) -> None:
        self.replays = replays
        self.now_ms = now_ms

    def first_time_ms(self, caller: str, key: str, body: bytes, now_ms: int) -> int:
        """When this body came first under its key: the time of events that come without one. Without a key, or while
        Redis is away, it is now; the store still knows an id whose time has moved by less than a bucket of its dedupe
        window."""
        if not key:
            return now_ms
        name = f"{_digest(caller.encode(), b'events', key.encode(), body).hex()}-began"
        with suppress(Unavailable):
            self.replays.put(name, b"%d" % now_ms)  # an earlier value stays
            return int(self.replays.get(name) or now_ms)
        return now_ms

    def once(
        self, caller: str, key: str, operation: str, body: bytes, work: Callable[[Attempt], bytes]
    ) -> tuple[bytes, bool]:
        """The answer of `work` and False; or the first answer and True, without doing it again. `work` is repeated,
        with the time of the first attempt, when that attempt did not get as far as its answer, and when two requests
        are here at once; it must then leave alone what was changed since.
        Raises `Problem`: 422 when the key was used for another request.
        Raises `Unavailable`: Redis is away; the same request may be sent again."""
        now_ms = self.now_ms()
        if not key:
            return work(Attempt(now_ms, False)), False
        name = _digest(caller.encode(), operation.encode(), key.encode()).hex()
        digest = _digest(body)

        def recorded(place: str) -> bytes | None:
            found = self.replays.get(place)
            if found is None:
                return None
            record = _decoder.decode(found)
            if record.body_digest != digest:
                raise Problem(422, f"idempotency-key: {key!r} was used for another request; make a new key")
            return record.content

        answer = recorded(name)
        if answer is not None:
            return answer, True
        self.replays.put(f"{name}-began", _encode(_Record(digest, b"%d" % now_ms)))  # an earlier value stays
        began_ms = int(recorded(f"{name}-began") or now_ms)
        answer = work(Attempt(began_ms, began_ms != now_ms))
        self.replays.put(name, _encode(_Record(digest, answer)))
        return answer, False


def _digest(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).digest()
