"""Which column has which role: each is used once, the surest name first."""

from collections.abc import Callable, Sequence

from recsys.datasets.column_profile import Profile
from recsys.datasets.guess_words import GENERIC

Test = Callable[[Profile], bool]


class Picker:
    """The columns of a table that have no role yet."""

    def __init__(self, columns: Sequence[Profile]) -> None:
        self.left = [column for column in columns if column.filled]
        self.headless = all(column.name == f"column{n}" for n, column in enumerate(columns, start=1))

    def use(self, *columns: Profile) -> None:
        """Leave these out from now on."""
        self.left = [column for column in self.left if column not in columns]

    def take(self, vocabulary: Sequence[str], test: Test = lambda column: True) -> Profile | None:
        """The column whose name is in the vocabulary, apart from generic words; None: there is none."""
        found = [
            (rank, column) for column in self.left if (rank := _rank(column, vocabulary)) and test(column)
        ]
        if not found:
            return None
        _, best = min(found, key=lambda pair: pair[0])
        self.use(best)
        return best

    def only(self, test: Test) -> Profile | None:
        """The one column that passes the test; None: none or several do."""
        found = [column for column in self.left if test(column)]
        if len(found) != 1:
            return None
        self.use(found[0])
        return found[0]

    def ids(self) -> list[Profile]:
        """Columns that can be ids, in the file's order: texts or whole numbers, many or repeated ones."""
        return [
            c
            for c in self.left
            if (not c.numeric or c.whole) and not c.binary and c.unit is None and not c.ordinal
        ]


def _rank(column: Profile, vocabulary: Sequence[str]) -> tuple[int, int] | None:
    """How sure: by how many other words the name has, then by the place in the vocabulary. None: not at all."""
    core = [_without_id(word, vocabulary) for word in column.words if word not in GENERIC] or list(
        column.words
    )
    places = [vocabulary.index(word) for word in core if word in vocabulary]
    whole = "".join(core)
    if whole in vocabulary:
        places.append(vocabulary.index(whole))
    if not places:
        return None
    others = len([word for word in core if word not in vocabulary])
    return (others, min(places)) if others <= 1 else None


def _without_id(word: str, vocabulary: Sequence[str]) -> str:
    """`visitorid` is `visitor`."""
    return word[:-2] if word.endswith("id") and word not in vocabulary and word[:-2] in vocabulary else word
