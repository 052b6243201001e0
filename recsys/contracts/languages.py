"""Languages of titles: BCP 47 tags in one form, and which of its titles an item is shown with.

Titles are texts to show. Filters and the item tower read `Item.title`, the default title, alone.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from operator import attrgetter
from sys import intern

from recsys.contracts.types import Item

MAX_TITLES = 64
MAX_TAG_LENGTH = 35  # RFC 5646, section 4.4.1

Languages = tuple[str, ...]  # of a request, the preferred one first; none: default titles
Title = Callable[[Item], str]

# RFC 5646, section 2.1, without private and grandfathered tags: language, script, region, variants, extensions
_TAG = re.compile(
    "[a-z]{2,3}(-[a-z]{3}){0,3}(-[a-z]{4})?(-([a-z]{2}|[0-9]{3}))?(-([a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*"
    "(-[a-wyz0-9](-[a-z0-9]{2,8})+)*(-x(-[a-z0-9]{1,8})+)?"
)
_EXTENSIONS = re.compile("(?=-[a-z0-9]-)")  # begin here
_USUAL_CASE: Mapping[int, Callable[[str], str]] = {2: str.upper, 4: str.capitalize}  # regions, scripts


def language_tag(raw: str) -> str:
    """A tag in its usual case, with hyphens. Raises `ValueError`: it is not well-formed.

    >>> [language_tag(tag) for tag in ("DE", "pt_br", "zh-hant-tw", "es-419")]
    ['de', 'pt-BR', 'zh-Hant-TW', 'es-419']
    """
    text = raw.strip(" ").replace("_", "-")
    lower = text.lower()
    # not ASCII: some letters have an ASCII one as their lower case
    if len(text) > MAX_TAG_LENGTH or not text.isascii() or not _TAG.fullmatch(lower):
        raise ValueError(f"{raw[:MAX_TAG_LENGTH]!r} is not a language tag, such as de, en-GB or zh-Hant")
    plain, *extensions = _EXTENSIONS.split(lower, maxsplit=1)
    language, *others = plain.split("-")
    usual = (_USUAL_CASE.get(len(subtag), str)(subtag) for subtag in others)
    return "-".join([language, *usual]) + "".join(extensions)


def titles_of(pairs: Iterable[tuple[str, str]]) -> Mapping[str, str] | None:
    """Titles by language, without empty ones; None: there is none. All items share the tags."""
    return {intern(tag): title for tag, title in pairs if title} or None


def default_title(title: str, titles: Mapping[str, str] | None) -> str:
    """An item's title, else the first one that it has in some language."""
    return title or next(iter((titles or {}).values()), "")


def title_in(languages: Languages) -> Title:
    """What reads the title that an item is shown with."""
    return partial(_title, languages) if languages else attrgetter("title")


def _title(languages: Languages, item: Item) -> str:
    if item.titles is None:
        return item.title
    tag = closest(languages, item.titles)
    return item.title if tag is None else item.titles[tag]


def closest(languages: Languages, tags: Collection[str]) -> str | None:
    """The first language itself, else what is left of it without its last subtags (the lookup of RFC 4647), else that
    of the other languages of the same primary subtag, else the shortest tag that has it; else likewise of the next
    language; None: there is none.

    >>> closest(("de-AT",), ["en", "de"]), closest(("de-AT", "en"), ["de-CH-1996", "de-DE", "en"])
    ('de', 'de-DE')
    >>> closest(("en-GB", "de", "en-US"), ["de", "en-AU", "en-US"]), closest(("de",), ["en"])
    ('en-US', None)
    """
    for primary in dict.fromkeys(map(_primary, languages)):
        asked = (language for language in languages if _primary(language) == primary)
        if found := next(filter(None, (_looked_up(language, tags) for language in asked)), None):
            return found
        related = [tag for tag in tags if _primary(tag) == primary]
        if related:
            return min(related, key=lambda tag: (len(tag), tag))
    return None


def _looked_up(language: str, tags: Collection[str]) -> str:
    """Empty: there is none."""
    while language and language not in tags:
        language = language.rpartition("-")[0]
    return language


def _primary(tag: str) -> str:
    return tag.partition("-")[0]
