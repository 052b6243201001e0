"""Tokens of shown items: what proves that an action is of a list that this API made, for this user (ADR 33).

A request id is public: a client may name any, so fake users could click a thousand times on an item that no list showed
them. A token cannot be made without the key. Nothing is stored: it has the time of its list and a MAC over request,
user, item and that time.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import blake2b

from recsys.contracts.events import Event, derived_id
from recsys.contracts.impressions import made_ms_of
from recsys.contracts.time_rules import TimeRules
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR
from recsys.features.definitions import CLICKED, CONVERTED, LIKED
from serving.settings import ItemTokensMode

ONCE = CLICKED.types | LIKED.types | CONVERTED.types  # what features count per impression
_TIME_BYTES, _MAC_BYTES = 6, 12  # 24 characters of Base64, without padding
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
    note: str = ""  # for the client, if the event does not count as it means


_NOTES = {
    Unproven.MISSING: "counted as an action from elsewhere: send the item's `token` of that answer, too",
    Unproven.WRONG: "counted as an action from elsewhere: the token is not of this request, user and item",
    Unproven.EXPIRED: "counted as an action from elsewhere: the list is too old",
}


class ItemTokens:
    """Makes tokens and judges events by them, as far as the mode says. Thread-safe."""

    def __init__(self, key: bytes, rules: TimeRules, mode: ItemTokensMode = ItemTokensMode.ON) -> None:
        """`key`: at least 32 bytes; of each use of it, another key is derived. `rules`: of the log; a token lives so
        short that no outcome is called late."""
        self._key = hmac.digest(key, b"item tokens", "sha256")
        self.mode = mode
        self._life_ms = max(0, rules.late_ms - rules.future_ms - MS_PER_HOUR)

    def make(self, request_id: str, user_id: str, items: Sequence[str], now_ms: int) -> list[str]:
        """A token for each item of a list."""
        time = now_ms.to_bytes(_TIME_BYTES, "big")
        return [
            base64.urlsafe_b64encode(time + self._mac(time, request_id, user_id, item)).decode()
            for item in items
        ]

    def judge(self, event: Event, token: str | None, now_ms: int) -> Judged:
        """An event that names a request counts as one of its list with the item's token alone; without, it is kept as
        an action from elsewhere. A proven click, like or purchase counts once per request and item: see `_outcome`."""
        if event.request_id is None or self.mode is ItemTokensMode.OFF:
            return Judged(event)
        judged = self._judge(event, event.request_id, token, now_ms)
        return judged if self.mode is ItemTokensMode.ON else Judged(event, judged.unproven)

    def _judge(self, event: Event, request_id: str, token: str | None, now_ms: int) -> Judged:
        if not token:
            return _elsewhere(event, Unproven.MISSING)
        made_ms = self._made_ms(token, request_id, event.user_id, event.item_id)
        if made_ms is None:
            return _elsewhere(event, Unproven.WRONG)
        outcome = _outcome(event, request_id, made_ms)
        if now_ms - made_ms > self._life_ms:  # sent again, it keeps the id that it had
            return _elsewhere(replace(event, event_id=outcome.event_id), Unproven.EXPIRED)
        return Judged(outcome)

    def _made_ms(self, token: str, *ids: str) -> int | None:
        """When the token was made; None: not one of ours for these ids."""
        try:
            raw = base64.b64decode(token, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        time, mac = raw[:_TIME_BYTES], raw[_TIME_BYTES:]
        if not hmac.compare_digest(mac, self._mac(time, *ids)):
            return None
        return int.from_bytes(time, "big")

    def _mac(self, time: bytes, *ids: str) -> bytes:
        text = _SEPARATOR.join(ids).encode()
        return blake2b(time + text, key=self._key, digest_size=_MAC_BYTES).digest()


def _outcome(event: Event, request_id: str, made_ms: int) -> Event:
    """The event under an id of its own, whatever the client calls it, and not before its list.

    Stream and batch count an id once if its times are of one hour and one UTC day (docs/streaming.md), so what happens
    later is dated there. Ids of impressions have the same base (`impression_events`): where a request that is
    repeated counts as one list, its outcomes count as one.
    """
    time_ms = max(event.event_time_ms, made_ms)
    if event.type not in ONCE:
        return replace(event, event_time_ms=time_ms)
    base_ms = made_ms_of(request_id) or made_ms
    own_id = derived_id(base_ms, request_id, event.user_id, event.type, event.item_id)
    last_ms = min(made_ms + MS_PER_HOUR, made_ms - made_ms % MS_PER_DAY + MS_PER_DAY - 1)
    return replace(event, event_id=own_id, event_time_ms=min(time_ms, last_ms))


def _elsewhere(event: Event, why: Unproven) -> Judged:
    return Judged(replace(event, request_id=None, position=None), why, _NOTES[why])
