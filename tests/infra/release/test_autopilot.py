"""The autopilot: trains when a trigger says so, one command after the other, and takes steps until it is stopped."""

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from infra.evaluation.fault_injection.release.kills import Given
from infra.release import autopilot
from infra.release.autopilot import HEARTBEAT, TRAINING, Trainer, alone, new_items, run
from infra.release.controller import Controller
from infra.release.triggers import TriggerPlan
from recsys.bundle import current_version, read_manifest
from recsys.contracts.types import MS_PER_HOUR
from recsys.datasets.catalogue import items_path
from recsys.experiments.release import ReleasePlan, proposed, rolled_back
from recsys.experiments.release_file import is_in_use, propose, take_waiting, write_release
from recsys.items.item_table import items_table
from recsys.lake.lake import write_parquet
from recsys.settings import Settings
from tests.bundles import tiny_items, write_tiny_bundle


@dataclass
class Children:
    """Stands for the processes of a training. `codes`: with which each ends; None: it still runs."""

    begun: list[tuple[str, ...]] = field(default_factory=list)
    codes: list[int | None] = field(default_factory=list)

    def start(self, command: list[str], **_: Any) -> "Children":
        self.begun.append(tuple(command[3:]))
        return self

    def poll(self) -> int | None:
        return self.codes.pop(0)

    def terminate(self) -> None: ...

    def wait(self) -> None: ...


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[Children]:
    found = Children()
    monkeypatch.setattr("subprocess.Popen", found.start)
    monkeypatch.setattr(autopilot, "_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(Trainer, "_drifted", lambda self: None)
    yield found


def test_a_training_runs_its_commands_in_turn_and_ends_with_one_that_fails(
    tmp_path: Path, children: Children
) -> None:
    with closing(Trainer(Settings(home=tmp_path), TriggerPlan(), "http://api")) as trainer:
        children.codes = [None, 0, 1]
        for _ in range(5):
            trainer.step()
        assert children.begun == list(TRAINING)
        trainer.step()
    assert children.begun == list(TRAINING), "the next one is hours away, also after a failure"


def test_a_share_of_new_items_is_counted_against_the_serving_bundle(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert new_items(settings) is None
    write_tiny_bundle(settings.bundles, items=tiny_items(30))
    write_parquet(items_path(settings.lake), items_table(tiny_items(40)))
    assert new_items(settings) == 0.25


def test_new_items_ask_for_no_training_while_a_bundle_is_released(
    tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autopilot, "new_items", lambda _: 1.0)
    settings = Settings(home=tmp_path)
    write_tiny_bundle(settings.bundles, "old")
    now_ms = read_manifest(settings.bundles / "old").created_ms + 4 * MS_PER_HOUR
    monkeypatch.setattr("time.time_ns", lambda: now_ms * 1_000_000)
    with closing(Trainer(settings, TriggerPlan(), "http://api")) as trainer:
        release = proposed("new", "old", now_ms)
        write_release(settings.bundles, release)
        trainer.step()
        write_release(settings.bundles, rolled_back(release, now_ms, "harm"))
        propose(settings.bundles, "newer")
        for _ in range(2):
            trainer.step()
        assert children.begun == []
        take_waiting(settings.bundles)
        for _ in range(2):
            trainer.step()
        assert children.begun == [TRAINING[0]]


def test_it_takes_steps_until_the_release_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autopilot, "EVERY_S", 0.0)
    write_tiny_bundle(tmp_path, "old")
    write_tiny_bundle(tmp_path, "new", seed=1, current=False)
    propose(tmp_path, "new")
    now = [0]

    def clock() -> int:
        now[0] += MS_PER_HOUR
        return now[0]

    with alone(tmp_path):
        controller = Controller(tmp_path, Given(clock), ReleasePlan(), clock)
        run(tmp_path, controller, threading.Event(), until_ended=True)
    assert current_version(tmp_path) == "new"
    assert is_in_use(tmp_path)
    assert (tmp_path / HEARTBEAT).exists()
