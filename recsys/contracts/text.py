"""One rule for ids, categories and names, wherever they enter: import, API, stream, impression log.

Texts that look the same are the same: Unicode's composed form (NFC), one kind of space, none at the ends, no invisible
breaks. What could forge or split what a person reads (control characters, overrides of the writing direction) is
refused by name. Everything else is legal: every script, joined emoji, any punctuation. Each rule is idempotent.
"""

import re
import unicodedata

MAX_ID_LENGTH = 128
MAX_TEXT_LENGTH = 512
CATEGORY_SEPARATOR = "|"

_PLANES = "".join(f"{chr(plane << 16 | 0xFFFE)}-{chr(plane << 16 | 0xFFFF)}" for plane in range(17))
# control characters, line and paragraph separators, surrogates, direction overrides, noncharacters
_ILLEGAL = re.compile(
    f"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufdd0-\ufdef{_PLANES}]"
)
_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")  # soft hyphen, zero-width space and no-break spaces
_BREAK = re.compile("\r\n|[\t\n\v\f\r\x85\u2028\u2029]")
# in the path of a URL, clients and proxies take these for steps between folders, percent-encoded or not
_STEPS = (".", "..")


def id_text(raw: str) -> str:
    """The id of a user, item, event or request.
    Raises `ValueError`: it is empty, too long, "." or "..", or has an illegal character, which the message names.

    >>> id_text(" caf\u0065\u0301\u00a07 ")
    'café 7'
    """
    if is_plain_id(raw):
        return raw
    text = name_text(raw)
    if not text:
        raise ValueError("is empty")
    if text in _STEPS:
        raise ValueError(f"is {text!r}, which cannot be part of a URL")
    return text


def name_text(raw: str) -> str:
    """A creator, or empty. Raises `ValueError`: it is too long, or has an illegal character."""
    return _within(_legal(raw), MAX_ID_LENGTH)


def category_text(raw: str) -> str:
    """The name of a category. Raises `ValueError`: it is empty, too long, or has an illegal character, such as the one
    that separates categories in an event's context."""
    text = name_text(raw)
    if not text:
        raise ValueError("is empty")
    if CATEGORY_SEPARATOR in text:
        raise ValueError(f"has {CATEGORY_SEPARATOR!r}, which separates categories")
    return text


def free_text(raw: str) -> str:
    """A title, or an attribute: line breaks and tabs become spaces. Raises `ValueError`: as `name_text`."""
    return _within(_legal(raw if is_plain(raw) else _BREAK.sub(" ", raw)), MAX_TEXT_LENGTH)


def is_plain_id(raw: str) -> bool:
    """Most ids: `id_text` returns them as they are."""
    return 0 < len(raw) <= MAX_ID_LENGTH and is_plain(raw) and raw not in _STEPS


def is_plain(raw: str) -> bool:
    """Most texts: nothing to change, nothing to refuse."""
    return raw.isascii() and raw.isprintable() and raw[:1] != " " and raw[-1:] != " "


def _legal(raw: str) -> str:
    if is_plain(raw):
        return raw
    if found := _ILLEGAL.search(raw):
        raise ValueError(f"has {_named(found.group())}, which is not allowed")
    # before NFC: an accent may follow what is removed
    spaced = _INVISIBLE.sub("", _SPACE.sub(" ", raw))
    return unicodedata.normalize("NFC", spaced).strip(" ")


def _named(character: str) -> str:
    code = f"U+{ord(character):04X}"
    name = unicodedata.name(character, "")
    return f"{code} ({name.lower()})" if name else f"the control character {code}"


def _within(text: str, most: int) -> str:
    if len(text) > most:
        raise ValueError(f"is longer than {most} characters")
    return text
