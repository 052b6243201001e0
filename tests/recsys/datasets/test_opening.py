"""What a folder holds, and what is said when nothing is known there; mappings of users' own tables."""

from pathlib import Path

import pytest

from recsys.contracts.errors import InvalidConfig, InvalidData
from recsys.contracts.types import EventType
from recsys.datasets.formats import FORMATS, KUAIRAND, TABLE
from recsys.datasets.mapping import read_mapping
from recsys.datasets.opening import _LAYOUTS, open_dataset
from tests.recsys.datasets import samples
from tests.recsys.datasets.streams import read_events, read_items, read_users

SHOP = Path(__file__).parents[3] / "examples" / "shop"


def test_the_named_formats_are_those_that_can_be_opened() -> None:
    assert (*_LAYOUTS, KUAIRAND, TABLE) == FORMATS


def test_the_example_is_a_working_mapping() -> None:
    dataset = open_dataset(SHOP)
    events = list(read_events(dataset))
    bought = next(event for event in events if event.type is EventType.PURCHASE)
    assert (bought.user_id, bought.item_id, bought.value) == ("ann", "teapot", 24.9)
    assert bought.context == {"categories": "Kitchen|Tableware", "creator": "Warm & Co", "device": "phone"}
    shown = next(event for event in events if event.user_id == "bob")
    assert (shown.request_id, shown.position, shown.event_time_ms) == ("p2", 0, 1_772_482_500_000)
    kettle = next(read_items(dataset))
    assert (kettle.title, kettle.creator, kettle.attributes) == (
        "Kettle, 1.5 l",
        "Warm & Co",
        {"price": "39.00"},
    )
    assert [user.attributes for user in read_users(dataset)] == [{"country": "NL"}, {"country": "DE"}]


def test_nothing_known_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidData) as caught:
        open_dataset(tmp_path)
    for sign in (
        "u.data",
        "ratings.dat",
        "ratings.csv",
        "*.inter",
        "video_features_basic_*.csv",
        "mapping.yaml",
    ):
        assert sign in str(caught.value)


def test_another_ratings_csv_is_not_movielens(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("reader,book,stars,rated_at\nann,b1,5,1770248247\n")
    with pytest.raises(InvalidData, match="no known data set"):
        open_dataset(tmp_path)


def test_files_of_two_layouts_are_refused_without_a_format(tmp_path: Path) -> None:
    folder = samples.movielens_csv(tmp_path / "m")
    (folder / "u.data").write_text("")
    with pytest.raises(InvalidData, match="choose one: --format movielens-100k or movielens-csv"):
        open_dataset(folder)
    assert open_dataset(folder, "movielens-csv").not_read == ("u.data",)


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    folder = samples.table(tmp_path / "t", [])
    (folder / "events.csv.bak").touch()
    (folder / "more").mkdir()
    assert open_dataset(folder).not_read == ("events.csv.bak", "more")
    assert open_dataset(folder / "events.csv", mapping=folder / "mapping.yaml").not_read == ()
    assert open_dataset(samples.kuairand_parquet(tmp_path / "k")).not_read == ("item_features.parquet",)


@pytest.mark.parametrize("name", ["", "A", "a/b", "-a", "a--b", "a b"])
def test_names_of_data_sets(name: str, tmp_path: Path) -> None:
    folder = samples.table(tmp_path / "t", [])
    assert open_dataset(folder, name="a-1.b").name == "a-1.b"
    with pytest.raises(InvalidConfig, match="lower-case letters"):
        open_dataset(folder, name=name)


def test_paths_and_formats_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no such file or folder"):
        open_dataset(tmp_path / "absent")
    with pytest.raises(InvalidConfig, match="unknown format 'csv': use one of " + ", ".join(FORMATS)):
        open_dataset(tmp_path, "csv")
    with pytest.raises(InvalidConfig, match="a table needs --mapping"):
        open_dataset(tmp_path, "table")


def test_a_named_format_wins_over_the_files(tmp_path: Path) -> None:
    folder = samples.movielens_csv(tmp_path / "both")
    (folder / "mapping.yaml").write_text("events: 1")
    assert len(list(read_events(open_dataset(folder, "movielens-csv")))) == 4
    with pytest.raises(InvalidConfig):
        open_dataset(folder)


def test_one_table_with_its_mapping(tmp_path: Path) -> None:
    folder = samples.table(tmp_path / "t", ["a,x,875000001000,1.5,,"])
    (folder / "events.csv").rename(folder / "other.csv")
    dataset = open_dataset(folder / "other.csv", mapping=folder / "mapping.yaml")
    assert dataset.name == "other"
    assert [event.value for event in read_events(dataset)] == [1.5]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("user: u", "usr: u", r"events\.user: Field required; events\.usr: Extra inputs"),
        ("column: t}", "column: t, unit: days}", r"events\.time\.unit"),
        ("type: rating", "type: stars", r"events\.events\.0\.type"),
        ("type: rating", "type: rating, equals: x", "`equals` needs `when`"),
        ("type: rating", "type: impression", "an impression has no `value`"),
        ("files: [events.csv]", "files: []", r"events\.files"),
        ("events:\n", "events: [\n", "not YAML: "),
    ],
)
def test_wrong_mappings_are_refused(old: str, new: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text(samples.MAPPING.replace(old, new, 1))
    with pytest.raises(InvalidConfig, match=said):
        read_mapping(path)


def test_streams_of_objects_stop_at_a_broken_row(tmp_path: Path) -> None:
    dataset = open_dataset(samples.table(tmp_path / "t", ["a,x,875000001000,1,,", "a,x,soon,1,,"]))
    with pytest.raises(
        InvalidData, match=r"events\.csv: row 3, column t: is not a time in milliseconds: 'soon'"
    ):
        list(read_events(dataset))
