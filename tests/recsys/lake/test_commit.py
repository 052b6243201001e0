"""Changes of several files: a killed process leaves the old files or the new ones, never some of each."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recsys.contracts.errors import InvalidData
from recsys.lake.commit import commit, rewriting, settle, staging

OLD = {"a/1": "old", "a/2": "old", "b/1": "old", "other": "kept"}
NEW = {"a/1": "new", "a/3": "new", "c": "new", "other": "kept"}
REPLACED = ("a/1", "a/2", "b/1")


class Killed(BaseException): ...


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def content(lake: Path) -> dict[str, str]:
    settle(lake)
    found = {str(path.relative_to(lake)): path for path in lake.rglob("*") if path.is_file()}
    return {name: path.read_text() for name, path in found.items() if name in OLD | NEW}


def change(lake: Path) -> None:
    with staging(lake, "x") as staged:
        write(staged, {name: text for name, text in NEW.items() if name != "other"})
        with rewriting(lake):
            commit(lake, staged, [lake / name for name in REPLACED])


@pytest.mark.parametrize("step", range(1, 12))
def test_a_change_happens_as_a_whole_or_not_at_all(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, OLD)
    steps = 0

    def until(original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **how: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps >= step:
                raise Killed  # and so does every later step: a killed process does not clean up
            return original(*arguments, **how)

        return counted

    with monkeypatch.context() as patch:
        for name in ("rename", "unlink"):
            patch.setattr(Path, name, until(getattr(Path, name)))
        patch.setattr(shutil, "rmtree", until(shutil.rmtree))
        try:
            change(tmp_path)
        except Killed:
            pass
        else:
            pytest.fail("there are fewer steps")
    committed = content(tmp_path)
    assert committed == (NEW if step > 4 else OLD)
    change(tmp_path)  # nothing that was left is in the way
    assert content(tmp_path) == NEW
    assert not list(tmp_path.glob("_*"))


def test_a_change_that_fails_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    with pytest.raises(ZeroDivisionError), staging(tmp_path, "x") as staged:
        write(staged, NEW)
        raise ZeroDivisionError
    assert content(tmp_path) == OLD
    assert not list(tmp_path.glob("_*")) + list(tmp_path.glob(".staging*"))


def test_an_altered_commit_deletes_nothing_outside_the_lake(tmp_path: Path) -> None:
    lake, outside = tmp_path / "lake", tmp_path / "mine.txt"
    (lake / "_commit").mkdir(parents=True)
    (lake / "_commit" / "_deleted.json").write_text('["../mine.txt"]')
    outside.write_text("mine")
    with pytest.raises(InvalidData, match="no file of the lake"):
        settle(lake)
    assert outside.read_text() == "mine"
