"""The languages that a request asks for: what it says itself, else its header `Accept-Language`."""

from functools import lru_cache
from operator import itemgetter
from typing import Annotated, NamedTuple

from fastapi import Depends, Header, Query
from pydantic import AfterValidator

from recsys.contracts.languages import MAX_TAG_LENGTH, Languages, language_tag

ACCEPT_LANGUAGE = "languages of titles where the request names none, as browsers send them"
LANGUAGE = "of the titles, as a BCP 47 tag such as `de` or `en-GB`; the header `Accept-Language` when absent"
_LONGEST, _MOST = 1_000, 10  # characters and languages of a header; browsers send fewer


class Spoken(NamedTuple):
    """`by_header`: another header would give another answer."""

    languages: Languages
    by_header: bool


def accepted(header: str) -> Languages:
    """Those of a header `Accept-Language`; empty: none is asked for."""
    return _by_weight(header) if 0 < len(header) <= _LONGEST else ()


@lru_cache(maxsize=1_024)
def _by_weight(header: str) -> Languages:
    """The languages of an `Accept-Language` (RFC 9110, section 12.5.4), the preferred one first; what cannot be read is
    left out.

    >>> _by_weight("en;q=0.5, de-AT, de;q=0.9, fr;q=0, *;q=0.1")
    ('de-AT', 'de', 'en')
    """
    found: list[tuple[float, str]] = []
    for part in header.split(","):
        tag, _, parameter = part.partition(";")
        name, _, text = parameter.partition("=")
        try:
            weight = float(text) if name.strip().lower() == "q" else 1.0
            if 0 < weight <= 1:
                found.append((weight, language_tag(tag)))
        except ValueError:
            continue
    found.sort(key=itemgetter(0), reverse=True)
    return tuple(dict.fromkeys(tag for _, tag in found))[:_MOST]


def _tag_or_empty(raw: str) -> str:
    return language_tag(raw) if raw else ""


def _spoken(
    language: Annotated[
        str, AfterValidator(_tag_or_empty), Query(max_length=MAX_TAG_LENGTH, description=LANGUAGE)
    ] = "",
    accept_language: Annotated[str, Header(description=ACCEPT_LANGUAGE)] = "",
) -> Spoken:
    return Spoken((language,), False) if language else Spoken(accepted(accept_language), True)


SpokenHere = Annotated[Spoken, Depends(_spoken)]
