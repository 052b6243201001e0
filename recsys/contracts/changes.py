"""What changes of items and of users have in common, on the log, in the store and in the lake: the newest one counts.

Whoever applies a change compares `changed_ms`: an older one changes nothing, so applying twice, or late, is harmless.
Records are keyed by the id, so the changes of one item or user are in order and the topics can be compacted.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar

from recsys.contracts.errors import InvalidEvent
from recsys.contracts.events import MAX_CONTEXT_ENTRIES, MAX_CONTEXT_LENGTH, MAX_ID_LENGTH, parse_time


class Change(Protocol):
    """Something is put, or deleted, at `changed_ms` (Unix milliseconds)."""

    @property
    def key(self) -> str:
        """Whose change it is; the key of its record."""

    @property
    def changed_ms(self) -> int: ...

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""


C = TypeVar("C", bound=Change)


def newest(changes: Iterable[C]) -> dict[str, C]:
    """The last change of each key; of equal times the later one."""
    found: dict[str, C] = {}
    for change in changes:
        known = found.get(change.key)
        if known is None or change.changed_ms >= known.changed_ms:
            found[change.key] = change
    return found


def parse_parts(raw: Any, kind: str) -> tuple[Any, str, int]:
    """What is put (None: nothing), the id that is deleted ("": none), and when, of a change's decoded JSON.

    Raises:
        InvalidEvent: it is neither.
    """
    if not isinstance(raw, dict) or raw.keys() not in ({kind, "changed_ms"}, {"deleted", "changed_ms"}):
        raise InvalidEvent(f"{kind} change: an object of {kind} or deleted, and changed_ms, is required")
    changed_ms = parse_time(raw["changed_ms"], "changed_ms")
    if "deleted" in raw:
        return None, parse_id(raw["deleted"], "deleted"), changed_ms
    return raw[kind], "", changed_ms


def parse_id(value: Any, name: str) -> str:
    return parse_text(value, name, MAX_ID_LENGTH, empty=False)


def parse_attributes(raw: Any) -> dict[str, str]:
    """Free text by name."""
    if not isinstance(raw, Mapping) or len(raw) > MAX_CONTEXT_ENTRIES:
        raise InvalidEvent(f"attributes: an object of at most {MAX_CONTEXT_ENTRIES} strings is required")
    return {
        parse_text(name, "attributes", MAX_CONTEXT_LENGTH, printable=False): parse_text(
            value, "attributes", MAX_CONTEXT_LENGTH, printable=False
        )
        for name, value in raw.items()
    }


def parse_text(value: Any, name: str, most: int, empty: bool = True, printable: bool = True) -> str:
    """
    Raises:
        InvalidEvent: not a string, too long, or with control characters.
    """
    if type(value) is not str or not (value or empty) or len(value) > most:
        raise InvalidEvent(f"{name}: a string of at most {most} characters is required, got {value!r:.80}")
    if printable and not value.isprintable():
        raise InvalidEvent(f"{name}: control characters are not allowed")
    return value
