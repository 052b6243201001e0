"""Files and folders appear whole or not at all."""

from pathlib import Path

import pytest

from recsys.files import atomic_write, replace_folder, staged_file, staged_folder


@pytest.mark.parametrize(("content", "stored"), [("käse\n", "käse\n".encode()), (b"\x00\xff", b"\x00\xff")])
@pytest.mark.parametrize("fsync", [False, True])
def test_atomic_write_replaces_text_and_bytes(
    tmp_path: Path, content: str | bytes, stored: bytes, fsync: bool
) -> None:
    path = tmp_path / "folder" / "file.json"
    atomic_write(path, "old")
    atomic_write(path, content, fsync=fsync)
    assert path.read_bytes() == stored
    assert [*path.parent.iterdir()] == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(RuntimeError, match="halfway"), staged_file(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise RuntimeError("halfway")
    assert path.read_text(encoding="utf-8") == "old"
    assert [*tmp_path.iterdir()] == [path]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "v1"
    with pytest.raises(RuntimeError, match="halfway"), staged_folder(path) as staging:
        (staging / "half").touch()
        raise RuntimeError("halfway")
    assert not [*tmp_path.iterdir()]
    with staged_folder(path) as staging:
        (staging / "file").touch()
        assert not path.exists()
    assert [*tmp_path.rglob("*")] == [path, path / "file"]


def test_a_staged_folder_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "v1"
    path.mkdir()
    (path / "file").touch()
    with pytest.raises(OSError, match="not empty"), staged_folder(path):
        pass
    assert [*tmp_path.rglob("*")] == [path, path / "file"]


def test_replace_folder_drops_the_old_one(tmp_path: Path) -> None:
    for name in ("work", "work.new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace_folder(tmp_path / "work.new", tmp_path / "work")
    assert [*tmp_path.rglob("*")] == [tmp_path / "work", tmp_path / "work" / "work.new"]
