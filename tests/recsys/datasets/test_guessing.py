"""Mappings guessed from the heads of tables as they are published, and read by the importer."""

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.errors import InvalidData
from recsys.datasets.guess_catalogue import separator_of
from recsys.datasets.guessing import Guess, guess_mapping
from recsys.datasets.importer import import_dataset
from recsys.datasets.mapper import MappedDataset
from recsys.datasets.mapping import read_mapping

# name → (files, the guessed events, what it must be unsure of)
LOGS: dict[str, tuple[dict[str, str], dict[str, Any], list[str]]] = {
    "retailrocket": (
        {
            "events.csv": "timestamp,visitorid,event,itemid,transactionid\n"
            "1433221332117,257597,view,355908,\n1433224214164,992329,view,248676,\n"
            "1433221999827,111016,addtocart,318965,\n1433221955914,111016,transaction,318965,4000\n"
        },
        {
            "user": "visitorid",
            "item": "itemid",
            "time": {"column": "timestamp"},
            "events": [
                {"type": "click", "when": "event", "equals": "view"},
                {"type": "add_to_cart", "when": "event", "equals": "addtocart"},
                {"type": "purchase", "when": "event", "equals": "transaction"},
            ],
        },
        [],
    ),
    "views and clicks": (
        {
            "log.csv": "user,item,when,action\nu1,i1,2026-01-01,pageview\nu1,i2,2026-01-02,click\n"
            "u2,i1,2026-01-03,pageview\nu2,i2,2026-01-04,buy\n"
        },
        {
            "user": "user",
            "item": "item",
            "time": {"column": "when", "unit": "iso"},
            "events": [
                {"type": "click", "when": "action", "equals": "click"},
                {"type": "purchase", "when": "action", "equals": "buy"},
                {"type": "view", "when": "action", "equals": "pageview"},
            ],
        },
        [],
    ),
    "movielens": (
        {
            "ratings.csv": "userId,movieId,rating,timestamp\n"
            "1,1,4.0,964982703\n1,3,3.5,964981247\n2,1,.5,964982224\n2,2,5.0,964983815\n",
            "movies.csv": "movieId,title,genres\n1,Toy Story,Adventure|Animation\n2,Jumanji,Adventure|Fantasy\n"
            "3,Grumpier Old Men,Comedy\n",
        },
        {
            "user": "userId",
            "item": "movieId",
            "time": {"column": "timestamp", "unit": "s"},
            "events": [{"type": "rating", "value": "rating"}],
        },
        [],
    ),
    "reviews": (
        {
            "reviews.csv": "user_id,parent_asin,rating,timestamp\n"
            "AAA,B01,5.0,1466641260000\nAAA,B02,1.0,1466641290000\nAAB,B01,3.0,1466741260000\n"
        },
        {
            "user": "user_id",
            "item": "parent_asin",
            "time": {"column": "timestamp"},
            "events": [{"type": "rating", "value": "rating"}],
        },
        [],
    ),
    "behaviours without a header": (
        {
            "behaviour.csv": "1,2268318,2520377,pv,1511544070\n1,2333346,2520771,fav,1511561733\n"
            "2,2576651,149192,cart,1511572885\n2,3830808,4181361,buy,1511593493\n"
        },
        {
            "columns": [f"column{n}" for n in range(1, 6)],
            "user": "column1",
            "item": "column2",
            "time": {"column": "column5", "unit": "s"},
            "events": [
                {"type": "click", "when": "column4", "equals": "pv"},
                {"type": "like", "when": "column4", "equals": "fav"},
                {"type": "add_to_cart", "when": "column4", "equals": "cart"},
                {"type": "purchase", "when": "column4", "equals": "buy"},
            ],
        },
        ["no header"],
    ),
    "sessions": (
        {
            "clicks.csv": "session_id,item_id,timestamp\n"
            "11,214577561,2014-04-07T10:51:09.277Z\n11,214577562,2014-04-07T10:54:09.868Z\n12,214577561,2014-04-07T13:56:37.614Z\n"
        },
        {
            "user": "session_id",
            "item": "item_id",
            "time": {"column": "timestamp", "unit": "iso"},
            "events": [{"type": "click"}],
        },
        ["each session is one", "each row is taken for a click"],
    ),
    "impressions": (
        {
            "log.csv": "user_id,video_id,time_ms,is_click,is_like,long_view,play_time_ms,request_id,position,tab\n"
            "u1,v1,1650000000000,1,0,1,12000,r1,0,1\nu1,v2,1650000000000,0,0,0,0,r1,1,1\n"
            "u2,v1,1650000100000,1,1,0,800,r2,0,1\nu2,v3,1650000100000,0,0,0,0,r2,1,1\n"
        },
        {
            "user": "user_id",
            "item": "video_id",
            "time": {"column": "time_ms"},
            "events": [
                {"type": "impression"},
                {"type": "click", "when": "is_click"},
                {"type": "like", "when": "is_like"},
                {"type": "dwell", "when": "play_time_ms", "value": "play_time_ms"},
            ],
            "request": ["request_id"],
            "position": "position",
        },
        [],
    ),
    "listening": (
        {
            "plays.tsv": "user_id\ttimestamp\tartist_id\tartist_name\ttrack_id\ttrack_name\n"
            "user_1\t2009-05-04T23:08:57Z\ta1\tDeep Dish\tt1\tSub Focus\n"
            "user_1\t2009-05-04T13:54:10Z\ta2\tUnderworld\tt2\tBorn Slippy\n"
            "user_2\t2009-05-04T13:52:04Z\ta2\tUnderworld\tt3\tRez\n"
        },
        {
            "user": "user_id",
            "item": "track_id",
            "time": {"column": "timestamp", "unit": "iso"},
            "events": [{"type": "click"}],
        },
        ["each row is taken for a click"],
    ),
    "books in another encoding, without times": (
        {
            "ratings.csv": '"User-ID";"ISBN";"Book-Rating"\n"276725";"034545104X";"0"\n"276726";"0155061224";"5"\n'
            '"276726";"0446520802";"10"\n"276727";"034545104X";"8"\n',
            "books.csv": '"ISBN";"Book-Title";"Book-Author";"Publisher"\n'
            '"034545104X";"Flesh Tones";"M. J. Rosé";"Ballantine"\n'
            '"0155061224";"Rites of Passage";"Judith Rae";"Heinle"\n'
            '"0446520802";"The Notebook";"Nicholas Sparks";"Warner"\n',
        },
        {
            "user": "User-ID",
            "item": "ISBN",
            "time": {"unit": "rows", "first": "2026-01-01T00:00:00"},
            "events": [{"type": "rating", "value": "Book-Rating", "scale": [0.0, 10.0]}],
        },
        ["no column of times", "from 0 (worst) to 10 (best)"],
    ),
    "reviews as JSON lines, with their products": (
        {
            "reviews.json": '{"reviewerID": "A1", "asin": "B1", "overall": 5.0, "unixReviewTime": 1462060800}\n'
            '{"reviewerID": "A1", "asin": "B2", "overall": 2.0, "unixReviewTime": 1462060900, "style": {"Size": 1}}\n'
            '{"reviewerID": "A2", "asin": "B1", "overall": 4.0, "unixReviewTime": 1462060950}\n',
            "meta.jsonl": '{"asin": "B1", "title": "Soap", "brand": "Dove", "categories": ["Beauty", "Soap"]}\n'
            '{"asin": "B2", "title": "Comb", "brand": "Kent", "categories": ["Beauty", "Hair"]}\n',
        },
        {
            "user": "reviewerID",
            "item": "asin",
            "time": {"column": "unixReviewTime", "unit": "s"},
            "events": [{"type": "rating", "value": "overall"}],
        },
        [],
    ),
    "orders": (
        {
            "transactions.csv": "t_dat,customer_id,article_id,price,sales_channel_id\n"
            "2018-09-20,c1,0663713001,0.0508,2\n2018-09-20,c1,0541518023,0.0305,2\n2018-09-21,c2,0663713001,0.0152,1\n"
        },
        {
            "user": "customer_id",
            "item": "article_id",
            "time": {"column": "t_dat", "unit": "iso"},
            "events": [{"type": "purchase", "value": "price"}],
        },
        ["each row is taken for a purchase"],
    ),
}


def guessed(folder: Path, files: dict[str, str]) -> Guess:
    for name, text in files.items():
        (folder / name).write_text(text, encoding="latin-1")
    return guess_mapping([folder])


@pytest.mark.parametrize("name", LOGS)
def test_tables_as_they_are_published(tmp_path: Path, name: str) -> None:
    files, events, doubts = LOGS[name]
    guess = guessed(tmp_path, files)
    found = yaml.safe_load(guess.to_yaml())["events"]
    for key in ("files", "delimiter", "encoding"):
        found.pop(key, None)
    assert found == events
    assert len(guess.doubts) == len(doubts), guess.doubts
    for doubt, part in zip(guess.doubts, doubts, strict=True):
        assert part in doubt


@pytest.mark.parametrize("name", LOGS)
def test_what_is_guessed_is_read_without_a_broken_row(tmp_path: Path, name: str) -> None:
    files, _, _ = LOGS[name]
    (tmp_path / "data").mkdir()
    guess = guessed(tmp_path / "data", files)
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(guess.to_yaml(), encoding="utf-8")
    dataset = MappedDataset("guessed", tmp_path / "data", read_mapping(mapping))
    report = import_dataset(dataset, tmp_path / "lake", strict=True)
    assert report.events >= max(text.count("\n") - 1 for text in files.values())


def test_files_of_the_same_columns_are_one_table_and_others_are_left_out(tmp_path: Path) -> None:
    head = "user,item,time\n"
    files = {f"log-{n}.csv": f"{head}a,x,{1_700_000_000 + n}\na,y,{1_700_000_009 + n}\n" for n in (1, 2)}
    guess = guessed(tmp_path, files | {"notes.txt": "what we know\nabout it\n"})
    assert guess.mapping.events.files == ["log-1.csv", "log-2.csv"]
    assert guess.ignored == ["notes.txt"]
    with pytest.raises(InvalidData, match=r"notes\.txt: no table"):
        guess_mapping([tmp_path / "notes.txt"])


def test_parquet_is_read_by_its_types(tmp_path: Path) -> None:
    moments = pa.array([datetime(2026, 3, day, tzinfo=UTC) for day in (1, 2, 3)])
    table = pa.table(
        {"customer": [1, 1, 2], "sku": ["a", "b", "a"], "date": moments, "price": [1.5, 2.0, 1.5]}
    )
    pq.write_table(table, tmp_path / "orders.parquet")
    guess = guess_mapping([tmp_path / "orders.parquet"])
    events = guess.mapping.events
    assert (events.user, events.item, events.time.column) == ("customer", "sku", "date")
    assert [rule.type for rule in events.events] == ["purchase"]
    mapped = MappedDataset("orders", guess.folder, guess.mapping)
    assert import_dataset(mapped, tmp_path / "lake", strict=True).events == 3


@pytest.mark.parametrize(
    ("cells", "separator"),
    [
        (["Kitchen/Mugs", "Kitchen/Pans", "Books"], "/"),
        (["Science;Energy", "Energy", "Science"], ";"),
        (["Home, Garden & Tools", "Health, Beauty", "Books"], "|"),
        (["Drama|War", "War", "Drama"], "|"),
    ],
)
def test_categories_are_split_where_parts_recur(cells: list[str], separator: str) -> None:
    assert separator_of(cells) == separator


def test_tables_that_say_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no table has a column of users"):
        guessed(tmp_path, {"weather.csv": "city,temperature\nBern,12.5\nRome,19.0\n"})
    with pytest.raises(InvalidData, match="no such file"):
        guess_mapping([tmp_path / "nothing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidData, match="no table; looked for"):
        guess_mapping([tmp_path / "empty"])


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.lists(TEXTS, min_size=1, max_size=6), max_size=8), st.sampled_from(",;\t|"))
def test_any_text_gives_a_mapping_or_a_refusal(rows: list[list[str]], delimiter: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "any.csv"
        path.write_text("\n".join(delimiter.join(row) for row in rows), encoding="utf-8", newline="")
        try:
            text = guess_mapping([path]).to_yaml()
        except InvalidData:
            return
        (Path(folder) / "mapping.yaml").write_text(text, encoding="utf-8")
        read_mapping(Path(folder) / "mapping.yaml")


def test_the_number_of_a_page_is_no_request(tmp_path: Path) -> None:
    rows = "".join(f"u{n % 4},i{n % 5},{1_700_000_000 + n},{n % 2},{n % 3},{n}\n" for n in range(60))
    guess = guessed(tmp_path, {"log.csv": f"user,item,timestamp,is_click,page,request_id\n{rows}"})
    assert guess.mapping.events.request == ["request_id"]
    rows = "".join(f"u{n % 4},i{n % 5},{1_700_000_000 + n},{n % 2},{n % 3}\n" for n in range(60))
    guess = guessed(tmp_path, {"log.csv": f"user,item,timestamp,is_click,page\n{rows}"})
    assert guess.mapping.events.request == []


def test_a_catalogue_larger_than_a_sample_is_known_by_the_name_of_its_key(tmp_path: Path) -> None:
    """The first rows of both tables have no item in common."""
    ids = list(range(40_000))
    pq.write_table(pa.table({"user": [1, 1, 2] * 100, "item": ids[-300:]}), tmp_path / "log.parquet")
    pq.write_table(pa.table({"item": ids, "title": [f"t{i}" for i in ids]}), tmp_path / "things.parquet")
    guess = guess_mapping([tmp_path])
    assert guess.mapping.items
    assert (guess.mapping.items.files, guess.mapping.items.item) == (["things.parquet"], "item")
