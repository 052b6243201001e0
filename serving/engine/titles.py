"""Titles of a list's lines in the languages of its request, put in afterwards: other requests pay nothing for it."""

from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from recsys.contracts.languages import Languages, title_in
from recsys.contracts.request import Rows
from recsys.items.catalogue import Catalogue

L = TypeVar("L", bound=Struct)


def titled(lines: list[L], rows: Rows, languages: Languages, catalogue: Catalogue) -> list[L]:
    """The lines, structs with a `title`, of these rows; as they are where no language is asked for."""
    if not languages:
        return lines
    titles = map(title_in(languages), map(catalogue.item, rows.tolist()))
    return [replace(line, title=title) for line, title in zip(lines, titles, strict=True)]
