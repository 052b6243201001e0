"""What an evaluation can read: files of sequences, data sets with a mapping, lakes."""

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import User
from recsys.datasets.catalogue import table_users, users_table
from recsys.lake.forget import mark_forgotten
from recsys.lake.lake import write_parquet
from training.evaluation.sources import Log, read_log, read_sequences, users_of_both

MAPPING = """
events:
  files: [log.csv]
  user: who
  item: what
  time: {column: when, unit: s}
  events: [{type: click}]
"""


def events(log_path: Path, work: Path) -> dict[str, list[str]]:
    log = read_log(log_path, work)
    return {h.user_id: [log.items[n - 1].item_id for n in h.numbers] for h in log.histories}


@pytest.mark.parametrize(
    "text",
    ["u1 b a\n\nu2 a c b\n", "u1:b a\nu2:a c b", "u1: b a\nu2: a c b\n"],
    ids=["plain", "colon", "colon and space"],
)
def test_lines_of_items_without_times(tmp_path: Path, text: str) -> None:
    path = tmp_path / "orders.txt"
    path.write_text(text)
    assert events(path, tmp_path / "work") == {"u1": ["b", "a"], "u2": ["a", "c", "b"]}
    log = read_sequences(path)
    assert not log.has_times
    assert log.users is None


def test_items_may_have_colons_where_users_have_none(tmp_path: Path) -> None:
    path = tmp_path / "orders"
    path.write_text("u1 sku:1 sku:2\nu:2 sku:1\n")
    assert events(path, tmp_path) == {"u1": ["sku:1", "sku:2"], "u:2": ["sku:1"]}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("u1 a\nu2\n", "line 2: needs a user and at least one item"),
        ("u1:\n", "line 1: needs a user"),
        (":a b\n", "line 1: needs a user"),
        ("u1 a\nu2 b\nu1 c\n", "line 3: the user has a line already"),
        ("\n", "no lines"),
        ("\udcff", "can't decode"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "orders.txt"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidData, match=fault):
        read_log(path, tmp_path / "work")


def test_films_beside_the_sequences_name_the_items(tmp_path: Path) -> None:
    (tmp_path / "sequences_stable.txt").write_text("1:11 10\n")
    (tmp_path / "movies.dat").write_text("10::Film, A (1999)::Drama|War\n", encoding="latin-1")
    log = read_log(tmp_path, tmp_path / "work")
    assert [(i.item_id, i.title, i.categories) for i in log.items] == [
        ("10", "Film, A", ("Drama", "War")),
        ("11", "", ()),
    ]
    assert log.items[0].attributes == {"year": "1999"}
    (tmp_path / "movies.dat").write_text("10,Film,Drama\n")
    with pytest.raises(InvalidData, match="id::title"):
        read_log(tmp_path, tmp_path / "work")


def test_a_data_set_is_imported_once_and_again_when_it_changes(tmp_path: Path) -> None:
    folder, lake = tmp_path / "shop", tmp_path / "lake"
    folder.mkdir()
    (folder / "mapping.yaml").write_text(MAPPING)
    table = folder / "log.csv"
    table.write_text("who,what,when\nann,a,1700000000\nann,b,1700000001\nbob,a,1700000002\n")
    expected = {"ann": ["a", "b"], "bob": ["a"]}
    assert events(folder, lake) == expected
    assert read_log(folder, lake).has_times
    assert (
        events(table, tmp_path / "of_the_file") == expected
    )  # a table next to a mapping is no file of sequences
    assert events(lake, tmp_path / "unused") == expected  # a lake is read where it is
    report = lake / "import-report.json"
    imported = report.stat().st_mtime_ns
    read_log(folder, lake)
    assert report.stat().st_mtime_ns == imported, "imported again"
    table.write_text("who,what,when\nann,a,1700000000\nbob,c,1700000002\n")
    later = imported / 1e9 + 5
    os.utime(table, (later, later))
    assert events(folder, lake) == {"ann": ["a"], "bob": ["c"]}


def test_nothing_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no such file"):
        read_log(tmp_path / "gone", tmp_path / "work")
    with pytest.raises(InvalidData, match=r"sequences_stable\.txt"):
        read_sequences(tmp_path / "sequences_stable.txt")


def test_a_forgotten_users_events_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    (tmp_path / "log.csv").write_text("who,what,when\nann,x,1700000000\nbob,x,1700000001\nann,y,1700000100\n")
    assert events(tmp_path, tmp_path / "work") == {"ann": ["x", "y"], "bob": ["x"]}
    mark_forgotten(tmp_path / "work", "ann", 1_700_000_050_000)
    assert events(tmp_path / "work", tmp_path) == {"ann": ["y"], "bob": ["x"]}


def test_users_of_both_logs_are_known(tmp_path: Path) -> None:
    def log(name: str, *users: User) -> Log:
        write_parquet(tmp_path / f"{name}.parquet", users_table(users))
        return Log([], [], tmp_path / f"{name}.parquet")

    train, test = (
        log("a", User("u", {"age": "1"})),
        log("b", User("u", {"age": "2"}), User("v", {"age": "3"})),
    )
    path = users_of_both(train, test, tmp_path / "both.parquet")
    assert path is not None
    known = {user.user_id: user.attributes["age"] for user in table_users(pq.read_table(path))}
    assert known == {"u": "1", "v": "3"}
    assert users_of_both(Log([], []), test, tmp_path / "nothing") == test.users
    assert users_of_both(Log([], []), Log([], []), tmp_path / "nothing") is None
