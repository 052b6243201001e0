"""Every layout of MovieLens gives the same events."""

from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import EventType
from recsys.datasets.opening import open_dataset
from tests.recsys.datasets import samples
from tests.recsys.datasets.streams import read_events, read_items, read_users

Writer = Callable[[Path], Path]
LAYOUTS = (samples.movielens_100k, samples.movielens_1m, samples.movielens_csv, samples.recbole)


@pytest.mark.parametrize("write", LAYOUTS)
def test_a_row_is_a_rating_event(write: Writer, tmp_path: Path) -> None:
    events = list(read_events(open_dataset(write(tmp_path / "small"))))
    found = [(e.user_id, e.item_id, e.value, e.event_time_ms) for e in events]
    assert found == [
        (user, item, float(stars), seconds * 1000) for user, item, stars, seconds in samples.RATINGS
    ]
    assert all(e.type is (EventType.DISLIKE if (e.value or 0) < 3 else EventType.RATING) for e in events)


@pytest.mark.parametrize("write", LAYOUTS)
def test_events_carry_the_categories_of_their_item(write: Writer, tmp_path: Path) -> None:
    events = {e.item_id: e for e in read_events(open_dataset(write(tmp_path / "small")))}
    assert events["10"].context["categories"] == "Action|Comedy"
    assert events["20"].categories == ("Comedy",)


@pytest.mark.parametrize("write", LAYOUTS)
def test_titles_survive_their_encoding(write: Writer, tmp_path: Path) -> None:
    items = {item.item_id: item for item in read_items(open_dataset(write(tmp_path / "small")))}
    assert items["10"].title == samples.TITLE


def test_the_10m_has_titles_in_utf8(tmp_path: Path) -> None:
    dataset = open_dataset(samples.movielens_1m(tmp_path / "small", encoding="utf-8"))
    assert next(read_items(dataset)).title == samples.TITLE


def test_ids_do_not_depend_on_the_layout(tmp_path: Path) -> None:
    ids = set()
    for number, write in enumerate(LAYOUTS):
        (tmp_path / str(number)).mkdir()
        dataset = open_dataset(write(tmp_path / str(number) / "small"))
        ids.add(tuple(event.event_id for event in read_events(dataset)))
    assert len(ids) == 1


def test_a_genre_that_says_nothing_is_no_category(tmp_path: Path) -> None:
    for write in (samples.movielens_100k, samples.movielens_csv):
        items = {item.item_id: item for item in read_items(open_dataset(write(tmp_path / write.__name__)))}
        assert items["30"].categories == ()


def test_users_have_their_attributes(tmp_path: Path) -> None:
    users = list(read_users(open_dataset(samples.movielens_100k(tmp_path / "small"))))
    assert users[0].attributes == {
        "age": "24",
        "gender": "M",
        "occupation": "technician",
        "zip_code": "85711",
    }
    assert len(users) == 3


def test_missing_item_and_user_files_are_no_error(tmp_path: Path) -> None:
    folder = samples.movielens_100k(tmp_path / "small")
    (folder / "u.item").unlink()
    (folder / "u.user").unlink()
    dataset = open_dataset(folder)
    assert not list(read_items(dataset))
    assert not list(read_users(dataset))
    assert [event.context for event in read_events(dataset)] == [{}] * 4


def test_interactions_without_a_rating_are_clicks(tmp_path: Path) -> None:
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n1\t2\t875000000\n")
    (event,) = read_events(open_dataset(tmp_path))
    assert (event.type, event.value) == (EventType.CLICK, None)


def test_a_data_set_that_is_split_is_read_as_one(tmp_path: Path) -> None:
    header = "user_id:token\titem_id:token\ttimestamp:float\n"
    for n, part in enumerate(("train", "valid", "test")):
        (tmp_path / f"x.{part}.inter").write_text(f"{header}{n}\t2\t875000000\n")
    assert {event.user_id for event in read_events(open_dataset(tmp_path))} == {"0", "1", "2"}
    (tmp_path / "x.valid.inter").write_text("user_id:token\titem_id:token\n1\t2\n")
    with pytest.raises(InvalidData, match=r"x\.valid\.inter: column timestamp:float is not in the file"):
        list(read_events(open_dataset(tmp_path)))


def test_interactions_without_times_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\n1\t2\n")
    with pytest.raises(InvalidData, match="no column timestamp.*unit: rows"):
        open_dataset(tmp_path)
