"""What was made of a lake is used as long as the lake is the same."""

from pathlib import Path

from training.evaluation.lake import forget_outdated


def test_what_was_made_of_another_lake_is_deleted(tmp_path: Path) -> None:
    work, lake = tmp_path / "work", tmp_path / "work" / "lake"
    items = lake / "items" / "items.parquet"
    items.parent.mkdir(parents=True)
    items.write_bytes(b"one")
    (work / "scores").mkdir()
    forget_outdated(work, lake)
    assert not (work / "scores").exists(), "nobody said of which lake"
    (work / "scores").mkdir()
    (lake / "import-report.json").write_text("{}")
    forget_outdated(work, lake)
    assert (work / "scores").exists(), "the same tables"
    items.write_bytes(b"other")
    forget_outdated(work, lake)
    assert not (work / "scores").exists()
    assert items.read_bytes() == b"other"
