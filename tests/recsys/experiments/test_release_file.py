"""The files of a release: state and audit log agree after a kill at any point."""

from dataclasses import replace
from pathlib import Path

import pytest

from recsys.contracts.errors import InvalidConfig
from recsys.experiments.release import Check, Stage, proposed
from recsys.experiments.release_file import (
    AUDIT,
    PROPOSED,
    STATE,
    complete_audit,
    history,
    propose,
    read_experiment,
    read_release,
    waiting,
    write_release,
)
from recsys.files import atomic_write

RELEASE = replace(proposed("new", "old", 1_750_000_000_000), checks=(Check("rows", 1.0, 2.0, "few"),))


def test_the_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_release(tmp_path) is None
    canary = replace(RELEASE, stage=Stage.CANARY_10, number=4, p={"ctr": 0.25})
    write_release(tmp_path, canary)
    assert read_release(tmp_path) == canary
    experiment = read_experiment(tmp_path / STATE)
    assert experiment is not None
    assert experiment.arms[0].bundle == "new"


def test_a_line_that_a_killed_process_did_not_write_is_written_once(tmp_path: Path) -> None:
    write_release(tmp_path, RELEASE)
    atomic_write(tmp_path / STATE, "killed before its line")  # the state of the next stage
    gated = replace(RELEASE, stage=Stage.GATED, number=1)
    for _ in range(3):
        complete_audit(tmp_path, gated)
    assert [line["stage"] for line in history(tmp_path)] == ["trained", "gated"]


def test_half_a_line_is_left_out_and_does_not_swallow_the_next_one(tmp_path: Path) -> None:
    write_release(tmp_path, RELEASE)
    with (tmp_path / AUDIT).open("a") as file:
        file.write('{"version": "new", "num')
    write_release(tmp_path, replace(RELEASE, stage=Stage.GATED, number=1))
    assert [line["number"] for line in history(tmp_path)] == [0, 1]


def test_the_newest_proposal_waits(tmp_path: Path) -> None:
    assert waiting(tmp_path) is None
    propose(tmp_path, "v1")
    propose(tmp_path, "v2")
    assert waiting(tmp_path) == "v2"
    assert (tmp_path / PROPOSED).read_text() == "v2\n"


@pytest.mark.parametrize("content", ["", "[]", '{"version": 1}', '{"stage": "live"}', "\x00"])
def test_a_damaged_state_is_refused_with_its_path(tmp_path: Path, content: str) -> None:
    (tmp_path / STATE).write_text(content)
    with pytest.raises(InvalidConfig, match=STATE):
        read_release(tmp_path)
    with pytest.raises(InvalidConfig, match=STATE):
        read_experiment(tmp_path / STATE)
