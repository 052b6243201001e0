"""MovieLens in the publisher's three layouts, and any data set in RecBole's atomic files.

| layout | ratings | items | users |
|---|---|---|---|
| 100K | `u.data`, tabs | `u.item`, latin-1, one flag per genre | `u.user` |
| 1M, 10M | `ratings.dat`, "::" | `movies.dat`, latin-1 (1M) or UTF-8 (10M) | `users.dat` (1M) |
| 20M and later | `ratings.csv` | `movies.csv` | – |
| RecBole | `*.inter`, tabs, typed header | `*.item` | `*.user` |

A rating becomes a rating event; its stars are the value.
"""

from pathlib import Path

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import EventType
from recsys.datasets.mapping import EventRule, EventTable, Files, ItemTable, Mapping, TimeColumn, UserTable
from recsys.datasets.reading import header

_RATING = [EventRule(type=EventType.RATING, value="rating")]
_SECONDS = TimeColumn(column="timestamp", unit="s")
_NO_GENRE = "(no genres listed)"
# fmt: off
_GENRES_100K = [
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
]
# fmt: on


def movielens_100k(folder: Path) -> Mapping:
    """`u.data`, `u.item`, `u.user`."""
    return Mapping(
        events=_ratings("u.data", "\t"),
        items=ItemTable(
            files=["u.item"],
            delimiter="|",
            columns=["movie_id", "title", "release_date", "video_release_date", "imdb_url", *_GENRES_100K],
            encoding="latin-1",
            quoted=False,
            item="movie_id",
            title="title",
            flags={genre: genre for genre in _GENRES_100K[1:]},
            attributes={"release_date": "release_date"},
        ),
        users=_users("u.user", "|", ["age", "gender", "occupation", "zip_code"]),
    )


def movielens_1m(folder: Path) -> Mapping:
    """`ratings.dat`, `movies.dat`, `users.dat`; the 10M has no users, and UTF-8 titles."""
    return Mapping(
        events=_ratings("ratings.dat", "::"),
        items=ItemTable(
            files=["movies.dat"],
            delimiter="::",
            columns=["movie_id", "title", "genres"],
            encoding=_utf8_or_latin1(folder / "movies.dat"),
            item="movie_id",
            title="title",
            categories="genres",
            ignored=[_NO_GENRE],  # in the 10M
        ),
        users=_users("users.dat", "::", ["gender", "age", "occupation", "zip_code"]),
    )


def movielens_csv(folder: Path) -> Mapping:
    """`ratings.csv`, `movies.csv`: 20M, 25M, 32M and "latest"."""
    return Mapping(
        events=EventTable(
            files=["ratings.csv"], user="userId", item="movieId", time=_SECONDS, events=_RATING
        ),
        items=ItemTable(
            files=["movies.csv"],
            item="movieId",
            title="title",
            categories="genres",
            ignored=[_NO_GENRE],
        ),
    )


def _ratings(file: str, delimiter: str) -> EventTable:
    return EventTable(
        files=[file],
        delimiter=delimiter,
        columns=["user_id", "item_id", "rating", "timestamp"],
        quoted=False,
        user="user_id",
        item="item_id",
        time=_SECONDS,
        events=_RATING,
    )


def _users(file: str, delimiter: str, attributes: list[str]) -> UserTable:
    return UserTable(
        files=[file],
        delimiter=delimiter,
        columns=["user_id", *attributes],
        quoted=False,
        user="user_id",
        attributes={name: name for name in attributes},
    )


def recbole(folder: Path) -> Mapping:
    """RecBole's atomic files: `*.inter`, `*.item`, `*.user`, each header cell "name:type".

    A row is a rating event if there is a rating column, otherwise a click.

    Raises:
        InvalidData: the interactions lack the user, the item or the time.
    """
    inter = _AtomicFile(folder, "*.inter")
    if "timestamp" not in inter:
        raise InvalidData(
            f"{folder}: *.inter has no column timestamp; if its rows are in order, write a mapping with "
            "`time: {unit: rows, first: 2026-01-01}` (docs/data.md)"
        )
    rule = EventRule(type=EventType.RATING, value=inter["rating"]) if "rating" in inter else _CLICK
    return Mapping(
        events=EventTable(
            **inter.format,
            user=inter["user_id"],
            item=inter["item_id"],
            time=TimeColumn(column=inter["timestamp"], unit="s"),
            events=[rule],
        ),
        items=_atomic_items(_AtomicFile(folder, "*.item")) if any(folder.glob("*.item")) else None,
        users=_atomic_users(_AtomicFile(folder, "*.user")) if any(folder.glob("*.user")) else None,
    )


_CLICK = EventRule(type=EventType.CLICK)
_TITLES = ("movie_title", "title", "name")
_CATEGORIES = ("class", "genre", "genres", "categories")


def _atomic_items(item: "_AtomicFile") -> ItemTable:
    title, categories = item.first(_TITLES), item.first(_CATEGORIES)
    return ItemTable(
        **item.format,
        item=item["item_id"],
        title=title,
        categories=categories,
        separator=" ",  # of every token_seq
        attributes={
            name: column for name, column in item.others("item_id") if column not in (title, categories)
        },
    )


def _atomic_users(user: "_AtomicFile") -> UserTable:
    return UserTable(**user.format, user=user["user_id"], attributes=dict(user.others("user_id")))


class _AtomicFile:
    """The typed header of RecBole's files of one kind: column names without their types. A data set that is split into
    several files is read as one; each must have the columns of the first that are read."""

    def __init__(self, folder: Path, pattern: str) -> None:
        self._path = min(folder.glob(pattern))
        files = Files(files=[pattern], delimiter="\t", quoted=False)
        self.format = files.model_dump()
        self._columns = {column.split(":")[0]: column for column in header(self._path, files)}

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def __getitem__(self, name: str) -> str:
        if name not in self._columns:
            raise InvalidData(f"{self._path}: row 1: no column {name}; it has {', '.join(self._columns)}")
        return self._columns[name]

    def first(self, names: tuple[str, ...]) -> str | None:
        return next((self._columns[name] for name in names if name in self._columns), None)

    def others(self, name: str) -> list[tuple[str, str]]:
        return [pair for pair in self._columns.items() if pair[0] != name]


def _utf8_or_latin1(path: Path) -> str:
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    except OSError:
        pass  # no such file, nothing to decode
    return "utf-8"
