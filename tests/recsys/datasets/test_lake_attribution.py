"""What a mapping says about attribution reaches the job that labels."""

from pathlib import Path

import pytest

from recsys.contracts.attribution import Attribution
from recsys.contracts.errors import InvalidConfig
from recsys.datasets.importer import import_dataset
from recsys.datasets.lake_attribution import lake_attribution, parse_attribution
from recsys.datasets.opening import open_dataset
from recsys.items.item_table import ITEM_SCHEMA

NO_ITEMS = ITEM_SCHEMA.empty_table()
MAPPING = """
events:
  files: [log.csv]
  user: user
  item: item
  time: {column: time, unit: iso}
  position: place
  first_position: 1
  attribution: ATTRIBUTION
  events:
    - {type: impression}
    - {type: click, when: clicked}
"""


def write(folder: Path, attribution: str) -> Path:
    folder.mkdir()
    (folder / "log.csv").write_text(
        "user,item,time,place,clicked\na,x,2026-01-01,1,1\na,y,2026-01-01,2,0\nb,x,2026-01-01,0,0\n"
    )
    (folder / "mapping.yaml").write_text(MAPPING.replace("ATTRIBUTION", attribution))
    return folder


def test_the_lake_has_the_attribution_of_its_mappings(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    assert lake_attribution(lake) == Attribution()
    report = import_dataset(open_dataset(write(tmp_path / "one", "request")), lake)
    assert lake_attribution(lake) == Attribution.parse("request")
    assert (report.active_users, report.users) == (1, 0)
    import_dataset(open_dataset(write(tmp_path / "two", "window:2")), lake)
    with pytest.raises(InvalidConfig, match="one: request, two: window:2.*--attribution"):
        lake_attribution(lake)


def test_positions_that_begin_at_one_are_mapped(tmp_path: Path) -> None:
    """Position 0 is a broken row then."""
    batches = list(open_dataset(write(tmp_path / "log", "auto")).events(NO_ITEMS))
    positions = [p for batch in batches for p in batch.rows.column("position").to_pylist()]
    assert sorted(positions) == [0, 0, 1], "an impression and its click; another impression"
    reasons = [row.reason for batch in batches for row in batch.broken]
    assert reasons == ["is not a position: integers from 1"]


def test_another_attribution_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="attribution.*none of auto, request, window:H"):
        open_dataset(write(tmp_path / "log", "sometimes"))
    with pytest.raises(InvalidConfig, match="none of auto, request, window:H"):
        parse_attribution("window:no")
