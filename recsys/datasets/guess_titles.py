"""Which columns are titles: the default one, and those whose names end in a language, such as title_de."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from recsys.contracts.languages import MAX_TITLES, language_tag
from recsys.datasets import guess_words as words
from recsys.datasets.column_profile import Profile, words_of
from recsys.datasets.guess_roles import Picker


@dataclass
class _Titles:
    """Columns whose names differ in the language alone."""

    plain: Profile | None = None
    by_language: dict[str, Profile] = field(default_factory=dict)

    @property
    def default(self) -> Profile:
        return self.plain or next(iter(self.by_language.values()))

    def add(self, column: Profile, language: str = "") -> None:
        """Of names that differ in case and punctuation alone, the first one counts."""
        if language:
            self.by_language.setdefault(language, column)
        else:
            self.plain = self.plain or column


def take_titles(pick: Picker, key: str, doubts: list[str]) -> tuple[str | None, dict[str, str]]:
    """The column of the default title, and language → column. `key`: the column of the items' ids: of several names,
    `track_name` rather than `artist_name` where the items are tracks."""
    groups = _groups([column for column in pick.left if not column.numeric])
    # a group stands for its columns, under the name that they share
    named = [replace(titles.default, name=" ".join(stem)) for stem, titles in groups.items()]
    own = [column for column in named if set(column.words) & set(words_of(key)) - words.GENERIC]
    best = Picker(own).take(words.TITLE) or Picker(named).take(words.TITLE)
    if best is None:
        return None, {}
    found = groups[best.words]
    default = found.default
    pick.use(default, *found.by_language.values())
    by_language = {
        language: column.name for language, column in islice(found.by_language.items(), MAX_TITLES)
    }
    if set(by_language.values()) <= {default.name}:
        return default.name, {}
    doubts.append(_doubt(default.name, by_language))
    return default.name, by_language


def _groups(columns: Sequence[Profile]) -> dict[tuple[str, ...], _Titles]:
    """The columns by the words of their names without the language."""
    groups: dict[tuple[str, ...], _Titles] = {}
    unsure: list[tuple[tuple[str, ...], str, Profile]] = []
    for column in columns:
        stem, language = _split(column.words)
        if not language:
            groups.setdefault(stem, _Titles()).add(column)
        elif language in words.GENERIC:  # name_id, title_no: a language only among others
            unsure.append((stem, language, column))
        else:
            groups.setdefault(stem, _Titles()).add(column, language)
    for stem, language, column in unsure:
        if stem in groups and groups[stem].by_language:
            groups[stem].add(column, language)
        else:
            groups.setdefault(column.words, _Titles()).add(column)
    return groups


def _split(name: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """The words before a language at the end of a title's name, and the language; empty: there is none.

    >>> _split(("title", "pt", "br")), _split(("name",)), _split(("artist", "de"))
    ((('title',), 'pt-BR'), (('name',), ''), (('artist', 'de'), ''))
    """
    for end in range(1, len(name)):
        language, *further = name[end:]
        is_language = language in words.LANGUAGES and all(w in words.SCRIPTS or len(w) == 2 for w in further)
        if is_language and set(name[:end]) & set(words.TITLE):
            try:
                return name[:end], language_tag("-".join(name[end:]))
            except ValueError:  # title_de_xx_yy
                continue
    return name, ""


def _doubt(default: str, by_language: dict[str, str]) -> str:
    languages = ", ".join(by_language)
    if default in by_language.values():
        return f"titles: {default} is the default title; requests in {languages} are shown theirs"
    return (
        f"titles: {default} is the default title, in a language that is not known; name it, such as"
        f" `titles: {{LANGUAGE: {default}, …}}`, or requests that accept {languages}, too, are not shown it"
    )
