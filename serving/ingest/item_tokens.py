"""Tokens of shown items: what proves that an action is of a list that this API made, for this user (ADR 33).

A request id is public: a client may name any, so fake users could click a thousand times on an item that no list showed
them. A token cannot be made without the key. Nothing is stored: it has the second of its list and a MAC over request,
user, item and that second.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import blake2b

from recsys.contracts.events import Event, derived_id
from recsys.contracts.types import MS_PER_DAY, MS_PER_SECOND
from recsys.features.definitions import CLICKED, CONVERTED, LIKED

LIFE_MS = MS_PER_DAY  # as long as the ids of events are remembered, so that none counts twice
ONCE = CLICKED.types | LIKED.types | CONVERTED.types  # what features and labels count as outcomes of a list
_TIME_BYTES, _MAC_BYTES = 4, 11  # 20 characters of Base64, without padding
_SEPARATOR = "\x1f"  # no id contains it


class Unproven(StrEnum):
    """Why an action does not count as one of the list that it names."""

    MISSING = "missing"
    WRONG = "wrong"
    EXPIRED = "expired"


@dataclass(frozen=True)
class Judged:
    """An event as the log gets it."""

    event: Event
    unproven: Unproven | None = None

    @property
    def note(self) -> str:
        """For the client; empty if there is nothing to say."""
        return _NOTES[self.unproven] if self.unproven else ""


class ItemTokens:
    """Makes tokens and judges events by them. Thread-safe."""

    def __init__(self, key: bytes) -> None:
        """`key`: at least 32 bytes; of each use of it, another key is derived."""
        self._key = blake2b(b"item tokens", key=key[:64], digest_size=32).digest()

    def make(self, request_id: str, user_id: str, items: Sequence[str], now_ms: int) -> list[str]:
        """A token for each item of a list."""
        time = (now_ms // MS_PER_SECOND).to_bytes(_TIME_BYTES, "big")
        return [
            base64.urlsafe_b64encode(time + self._mac(time, request_id, user_id, item)).decode()
            for item in items
        ]

    def judge(self, event: Event, token: str | None, now_ms: int) -> Judged:
        """An event that names a request counts as one of its list with the item's token alone. Without, it is kept as
        an action from elsewhere.

        With it, each action counts once per list and item, whatever id the client gives it, and cannot be older than
        the list.
        """
        if event.request_id is None:
            return Judged(event)
        if not token:
            return _elsewhere(event, Unproven.MISSING)
        made_ms = self._made_ms(token, event.request_id, event.user_id, event.item_id)
        if made_ms is None:
            return _elsewhere(event, Unproven.WRONG)
        if now_ms - made_ms > LIFE_MS:
            return _elsewhere(event, Unproven.EXPIRED)
        own_id = event.event_id
        if event.type in ONCE:
            own_id = derived_id(made_ms, event.request_id, event.user_id, event.type, event.item_id)
        return Judged(replace(event, event_id=own_id, event_time_ms=max(event.event_time_ms, made_ms)))

    def _made_ms(self, token: str, *ids: str) -> int | None:
        """When the token was made; None: not one of ours for these ids."""
        try:
            raw = base64.b64decode(token, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        time, mac = raw[:_TIME_BYTES], raw[_TIME_BYTES:]
        if not hmac.compare_digest(mac, self._mac(time, *ids)):
            return None
        return int.from_bytes(time, "big") * MS_PER_SECOND

    def _mac(self, time: bytes, *ids: str) -> bytes:
        text = _SEPARATOR.join(ids).encode()
        return blake2b(time + text, key=self._key, digest_size=_MAC_BYTES).digest()


_NOTES = {
    Unproven.MISSING: "counted as an action from elsewhere: send the item's `token` of that answer, too",
    Unproven.WRONG: "counted as an action from elsewhere: the token is not of this request, user and item",
    Unproven.EXPIRED: "counted as an action from elsewhere: the list is older than a day",
}


def _elsewhere(event: Event, why: Unproven) -> Judged:
    return Judged(replace(event, request_id=None, position=None), why)
