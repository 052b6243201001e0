"""From files to the lake and back: nothing lost, nothing twice, nothing half."""

import json
import random
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from recsys.contracts.changes import ItemChange, UserChange
from recsys.contracts.errors import InvalidData
from recsys.contracts.events import Event
from recsys.contracts.types import MS_PER_DAY, EventType, Item, User
from recsys.datasets import catalogue
from recsys.datasets.base import USER_SCHEMA
from recsys.datasets.changed import items_after, users_after
from recsys.datasets.importer import REPORT, import_dataset, validate_dataset
from recsys.datasets.merging import merged_users
from recsys.datasets.opening import open_dataset
from recsys.datasets.replacing import report_path
from recsys.items import item_table
from recsys.lake.forget import mark_forgotten
from recsys.lake.lake import EVENTS, day_of, days, events_table, read_events, write_parquet
from streaming.lake_writer.compact import compact
from tests.recsys.datasets import samples
from tests.recsys.datasets.streams import read_events as stream_events
from tests.recsys.datasets.streams import read_items, read_users

NOW_MS = 1_790_000_000_000
WEEK_MS = 7 * MS_PER_DAY
BROKEN = (
    "a,x,875000000000,1,,",
    ",x,875000000000,1,,",
    "a,x,soon,1,,",
    "a,x",
    "a,x,875000000000,many,,",
    "a,x,875000000000,1,-1,",
    "a,x\u0007,875000000000,1,,",
    "a,x,875000000,1,0,seconds: the first row again",
    f"a,x,875000000000,1,,{'n' * 600}",
)


def snapshot(lake: Path) -> dict[str, bytes]:
    """Every file that readers see."""
    return {str(path.relative_to(lake)): path.read_bytes() for path in sorted(lake.rglob("*.parquet"))}


def test_what_comes_out_of_the_lake_is_what_went_in(tmp_path: Path) -> None:
    for write in (samples.movielens_100k, samples.kuairand_parquet):
        dataset, lake = open_dataset(write(tmp_path / write.__name__)), tmp_path / f"{write.__name__}-lake"
        import_dataset(dataset, lake)
        first_of_id = {event.event_id: event for event in reversed(list(stream_events(dataset)))}
        expected = sorted(first_of_id.values(), key=lambda e: (e.event_time_ms, e.event_id))
        assert list(read_events(lake)) == expected
        assert item_table.read_items(catalogue.items_path(lake)) == sorted(
            read_items(dataset), key=lambda item: item.item_id
        )
        assert catalogue.read_users(lake) == sorted(read_users(dataset), key=lambda user: user.user_id)


@pytest.mark.parametrize("max_rows", [7, 10_000])
def test_memory_changes_nothing(max_rows: int, tmp_path: Path) -> None:
    """However few rows are held, every day's files are sorted and hold each event once."""
    numbers = random.Random(0)
    times = [875_000_000_000 + 1_000 * numbers.randrange(3 * MS_PER_DAY // 1_000) for _ in range(200)]
    rows = [f"{numbers.randrange(9)},{numbers.randrange(9)},{time},1,," for time in times]
    rows += rows[::5]
    dataset = open_dataset(samples.table(tmp_path / "t", rows))
    report = import_dataset(dataset, tmp_path / "lake", max_rows=max_rows)
    kept = Counter(rows)
    assert report.events == len(kept)
    assert report.duplicates == len(rows) - len(kept)
    stored = []
    for day in days(tmp_path / "lake"):
        files = sorted((tmp_path / "lake" / "events" / f"dt={day}").glob("*.parquet"))
        of_day = [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]
        order = [(row["event_time_ms"], row["event_id"]) for row in of_day]
        assert order == sorted(set(order))
        stored += [f"{row['user_id']},{row['item_id']},{row['event_time_ms']},1,," for row in of_day]
    assert sorted(stored) == sorted(kept)


def test_importing_again_changes_nothing(tmp_path: Path) -> None:
    dataset = open_dataset(samples.kuairand_parquet(tmp_path / "k"))
    import_dataset(dataset, tmp_path / "lake", end_ms=NOW_MS)
    before = snapshot(tmp_path / "lake")
    import_dataset(dataset, tmp_path / "lake", end_ms=NOW_MS + MS_PER_DAY // 24)
    assert snapshot(tmp_path / "lake") == before


def test_a_later_shift_replaces_the_earlier_one(tmp_path: Path) -> None:
    dataset, lake = open_dataset(samples.movielens_100k(tmp_path / "m")), tmp_path / "lake"
    import_dataset(dataset, lake, end_ms=NOW_MS)
    import_dataset(dataset, lake, end_ms=NOW_MS + 3 * WEEK_MS)
    assert len(list(read_events(lake))) == len(samples.RATINGS)


def test_a_later_shift_replaces_the_earlier_one_after_a_compaction_too(tmp_path: Path) -> None:
    dataset, lake = open_dataset(samples.movielens_100k(tmp_path / "m")), tmp_path / "lake"
    import_dataset(dataset, lake, end_ms=NOW_MS)
    archived = [
        Event(f"a{n}", EventType.CLICK, "u", "i", next(read_events(lake)).event_time_ms) for n in range(2)
    ]
    (day,) = {day_of(event.event_time_ms) for event in archived}
    for event in archived:
        path = lake / EVENTS / f"dt={day}" / f"events-abc-p0000-00000000000{event.event_id[1]}.parquet"
        write_parquet(path, events_table([event]))
    assert compact(lake).files_after == 1
    import_dataset(dataset, lake, end_ms=NOW_MS + 3 * WEEK_MS)
    assert len(list(read_events(lake))) == len(samples.RATINGS) + len(archived)


def test_data_sets_live_beside_each_other(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    import_dataset(open_dataset(samples.movielens_100k(tmp_path / "m")), lake)
    import_dataset(open_dataset(samples.kuairand_csv(tmp_path / "k")), lake)
    assert {event.user_id for event in read_events(lake)} == {"1", "2", "3"}
    assert [item.item_id for item in item_table.read_items(catalogue.items_path(lake))] == [
        "10",
        "100",
        "101",
        "20",
        "30",
    ]


def test_a_shift_is_whole_weeks_and_ends_within_the_last_one(tmp_path: Path) -> None:
    dataset, lake = open_dataset(samples.kuairand_csv(tmp_path / "k")), tmp_path / "lake"
    report = import_dataset(dataset, lake, end_ms=NOW_MS)
    times = [event.event_time_ms for event in read_events(lake)]
    assert NOW_MS - WEEK_MS < max(times) <= NOW_MS
    shift = min(times) - samples.LOG_START_MS
    assert shift == report.shift_weeks * WEEK_MS
    items = {item.item_id: item.created_ms for item in item_table.read_items(catalogue.items_path(lake))}
    assert items["100"] == 1_649_548_800_000 + shift  # the age of an item stays
    assert json.loads((lake / REPORT).read_text())["shift_weeks"] == report.shift_weeks


def test_broken_rows_are_set_aside_with_their_reasons(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    report = import_dataset(open_dataset(samples.table(tmp_path / "t", BROKEN)), lake)
    rejected = pq.read_table(lake / "rejected" / "import-t.parquet").to_pylist()
    assert [(row["row"], row["column"], row["reason"]) for row in rejected] == [
        (3, "u", "is empty"),
        (4, "t", "is not a time in milliseconds"),
        (5, "", "2 columns instead of 6"),
        (6, "v", "is not a number"),
        (7, "p", "is not a position: integers from 0"),
        (8, "i", "has the control character U+0007, which is not allowed"),
        (10, "c", "is longer than 512 characters"),
    ]
    assert {row["file"] for row in rejected} == {"events.csv"}
    assert rejected[1]["cell"] == "'soon'"
    assert (report.events, report.duplicates, report.broken) == (1, 1, 7)
    assert report.broken_by_reason["events.csv: t: is not a time in milliseconds"] == 1


def test_rows_without_a_user_are_the_session_s(tmp_path: Path) -> None:
    mapping = samples.MAPPING.replace("user: u", "user: u\n  anonymous: c").replace(
        "  context: {note: c}\n", ""
    )
    rows = ["u1,i,1750000000000,4,,s1", ",i,1750000000001,4,,s2", ",i,1750000000002,4,,"]
    report = import_dataset(open_dataset(samples.table(tmp_path / "t", rows, mapping)), tmp_path / "lake")
    assert [event.user_id for event in read_events(tmp_path / "lake")] == ["u1", "s2"]
    assert report.broken_by_reason == {"events.csv: u: is empty": 1}


def test_corrected_data_clears_what_was_rejected(tmp_path: Path) -> None:
    import_dataset(open_dataset(samples.table(tmp_path / "t", BROKEN)), tmp_path / "lake")
    good = [BROKEN[0], BROKEN[7]]
    import_dataset(open_dataset(samples.table(tmp_path / "t", good)), tmp_path / "lake")
    assert not list((tmp_path / "lake" / "rejected").iterdir())


def test_strict_refuses_and_leaves_the_lake_as_it_was(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    with pytest.raises(InvalidData, match=r"7 broken rows, nothing was imported\. First: events\.csv: row 3"):
        import_dataset(open_dataset(samples.table(tmp_path / "t", BROKEN)), lake, strict=True)
    assert not snapshot(lake)
    import_dataset(open_dataset(samples.table(tmp_path / "t", BROKEN[:1])), lake, strict=True)
    before = snapshot(lake)
    with pytest.raises(InvalidData):
        import_dataset(open_dataset(samples.table(tmp_path / "t", BROKEN)), lake, strict=True)
    assert snapshot(lake) == before


def test_validation_reports_the_same_and_writes_nothing(tmp_path: Path) -> None:
    dataset = open_dataset(samples.table(tmp_path / "t", BROKEN))
    validated = validate_dataset(dataset, end_ms=NOW_MS).to_dict()
    assert [path.name for path in tmp_path.iterdir()] == ["t"]
    imported = import_dataset(dataset, tmp_path / "lake", end_ms=NOW_MS).to_dict()
    assert validated.pop("dry_run")
    assert not imported.pop("dry_run")
    del validated["seconds"], imported["seconds"]
    assert validated == imported


def test_items_that_the_catalogue_lacks_are_kept_and_counted(tmp_path: Path) -> None:
    folder = samples.movielens_csv(tmp_path / "m")
    with (folder / "ratings.csv").open("a") as file:
        file.write("1,77,5,875000200\n2,77,5,875000201\n3,78,1,875000202\n")
    report = import_dataset(open_dataset(folder), tmp_path / "lake")
    assert report.unknown_items == {"77": 2, "78": 1}
    assert report.to_dict()["unknown_items"] == {"items": 2, "events": 3, "most_frequent": {"77": 2, "78": 1}}
    events = [event for event in read_events(tmp_path / "lake") if event.item_id in ("77", "78")]
    assert [event.context for event in events] == [{}, {}, {}]


def test_without_a_catalogue_the_items_are_those_of_the_events(tmp_path: Path) -> None:
    rows = ["a,x,875000001000,1,,", "b,y,875000002000,1,,", "b,x,875000003000,1,,"]
    report = import_dataset(open_dataset(samples.table(tmp_path / "t", rows)), tmp_path / "lake")
    assert [item.item_id for item in item_table.read_items(catalogue.items_path(tmp_path / "lake"))] == [
        "x",
        "y",
    ]
    assert (report.items, report.unknown_items) == (2, {})


def test_a_column_of_the_sources_own_ids_tells_equal_rows_apart(tmp_path: Path) -> None:
    rows = ["a,x,875000001000,1,,first", "a,x,875000001000,1,,second", "a,x,875000001000,1,,second"]
    for mapping, events in ((samples.MAPPING, 1), (samples.MAPPING + "  id: c\n", 2)):
        dataset = open_dataset(samples.table(tmp_path / "t", rows, mapping))
        assert validate_dataset(dataset).events == events


def test_repeated_items_and_users_count_once(tmp_path: Path) -> None:
    folder = samples.movielens_csv(tmp_path / "m")
    with (folder / "movies.csv").open("a") as file:
        file.write("10,Again,Drama\n")
    report = import_dataset(open_dataset(folder), tmp_path / "lake")
    assert (report.items, report.duplicate_items) == (3, 1)
    titles = {
        item.item_id: item.title for item in item_table.read_items(catalogue.items_path(tmp_path / "lake"))
    }
    assert titles["10"] == samples.TITLE  # the first one


def test_an_interrupted_import_leaves_the_lake_as_it_was(tmp_path: Path) -> None:
    dataset, lake = open_dataset(samples.movielens_csv(tmp_path / "m")), tmp_path / "lake"
    import_dataset(dataset, lake)
    before = snapshot(lake)

    def interrupt(phase: str, rows: int) -> None:
        if phase == "writing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_dataset(dataset, lake, end_ms=NOW_MS, progress=interrupt)
    assert snapshot(lake) == before
    assert not [path for path in lake.iterdir() if path.name.startswith(".")]


def good_rows(count: int) -> list[str]:
    return [f"a,x,{875_000_000_000 + n},1,," for n in range(count)]


@pytest.mark.parametrize(
    "rows",
    [[], ["a,x,8750000000000000,1,,"] * 20, [",x,soon,1,,"]],
    ids=["a header alone", "times in the wrong unit", "every row broken"],
)
@pytest.mark.parametrize("replace", [False, True])
def test_an_import_without_an_event_is_refused_and_changes_nothing(
    rows: list[str], replace: bool, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    with pytest.raises(InvalidData, match="the lake is unchanged"):
        import_dataset(open_dataset(samples.table(tmp_path / "t", rows)), lake, replace=replace)
    assert not snapshot(lake)
    import_dataset(open_dataset(samples.table(tmp_path / "t", good_rows(20))), lake)
    before = snapshot(lake)
    with pytest.raises(InvalidData, match="the lake is unchanged"):
        import_dataset(open_dataset(samples.table(tmp_path / "t", rows)), lake, replace=replace)
    assert snapshot(lake) == before
    assert not list(lake.glob("_*"))


def test_a_loss_of_more_than_a_tenth_needs_replace(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    for count in (20, 18):
        import_dataset(open_dataset(samples.table(tmp_path / "t", good_rows(count))), lake)
    shorter, before = open_dataset(samples.table(tmp_path / "t", good_rows(16))), snapshot(lake)
    for report in (report_path(lake, "t"), None):  # also in a lake of an earlier version
        with pytest.raises(InvalidData, match=r"events: 18 rows .* now there are 16.*--replace"):
            import_dataset(shorter, lake)
        assert snapshot(lake) == before
        if report:
            report.unlink()
    import_dataset(shorter, lake, replace=True)
    assert len(list(read_events(lake))) == 16


def test_a_catalogue_that_is_gone_needs_replace(tmp_path: Path) -> None:
    folder, lake = samples.movielens_csv(tmp_path / "m"), tmp_path / "lake"
    import_dataset(open_dataset(folder), lake)
    before = snapshot(lake)
    (folder / "movies.csv").write_text("movieId,title,genres\n,,x\n")
    with pytest.raises(InvalidData, match="every row of items is broken"):
        import_dataset(open_dataset(folder), lake)
    (folder / "movies.csv").unlink()
    with pytest.raises(InvalidData, match=r"items: 3 rows were imported before, now there are 0"):
        import_dataset(open_dataset(folder), lake)
    assert snapshot(lake) == before
    import_dataset(open_dataset(folder), lake, replace=True)  # items that are ids alone overwrite nothing
    titles = [item.title for item in item_table.read_items(catalogue.items_path(lake))]
    assert titles[0] == samples.TITLE


def test_two_sources_of_one_name_are_told_apart(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    import_dataset(open_dataset(samples.table(tmp_path / "t", good_rows(20))), lake)
    (tmp_path / "other").mkdir()
    folder, before = (
        samples.table(tmp_path / "other" / "t", [row.replace("a,x", "b,y") for row in good_rows(20)]),
        snapshot(lake),
    )
    with pytest.raises(InvalidData, match=r"data set t from .*/t \(events\.csv\); .* --name"):
        import_dataset(open_dataset(folder), lake)
    assert snapshot(lake) == before
    import_dataset(open_dataset(folder, name="t-2"), lake)
    assert {event.user_id for event in read_events(lake)} == {"a", "b"}
    report_path(lake, "t").write_text("{}")
    with pytest.raises(InvalidData, match="not the report of an import"):
        import_dataset(open_dataset(tmp_path / "t"), lake)


def test_what_came_through_the_api_is_newer_than_the_table(tmp_path: Path) -> None:
    dataset, lake = open_dataset(samples.movielens_100k(tmp_path / "m")), tmp_path / "lake"
    import_dataset(dataset, lake)
    edited, user = Item("10", "Edited"), User("1", {"age": "25"})
    changes = [
        *items_after(lake, [ItemChange("10", edited, 5), ItemChange("20", None, 5)]),
        *users_after(lake, [UserChange("1", user, 5), UserChange("2", None, 5)]),
    ]
    for path, table in changes:
        write_parquet(lake / path, table)
    mark_forgotten(lake, "3", 5)
    for report in (import_dataset(dataset, lake), import_dataset(dataset, lake)):
        assert (report.outdated_items, report.outdated_users) == (2, 3)
        assert [item.item_id for item in item_table.read_items(catalogue.items_path(lake))] == ["10", "30"]
        assert item_table.read_items(catalogue.items_path(lake))[0] == edited
    # user 3 leaves the table with the next compaction
    assert [user for user in catalogue.read_users(lake) if user.user_id != "3"] == [user]


def test_data_without_users_is_imported_after_somebody_was_forgotten(tmp_path: Path) -> None:
    mark_forgotten(tmp_path, "3", 5)
    found = merged_users(tmp_path, USER_SCHEMA.empty_table())
    assert (found.rows.num_rows, found.outdated) == (0, 0)


def test_ids_of_two_data_sets_are_counted(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    import_dataset(open_dataset(samples.movielens_100k(tmp_path / "m")), lake)
    report = import_dataset(open_dataset(samples.movielens_csv(tmp_path / "c")), lake)
    assert report.overwritten_items == 3
    assert import_dataset(open_dataset(tmp_path / "c"), lake).overwritten_items == 0  # its own


def test_a_lake_without_items_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="recsys data import"):
        item_table.read_items(catalogue.items_path(tmp_path))
