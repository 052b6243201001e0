"""Every setting of a training can be read, changed by file and by option, and is refused with a reason."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, model_validator
from typer.testing import CliRunner

from infra.cli.config_schema import settings_of
from infra.cli.main import app
from infra.cli.training_options import Planned, TrainingOptions, as_yaml
from infra.cli.training_plans import CompressedTraining, FullTraining, compressed_plan
from infra.cli.training_runs import night_loop
from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import Head, Item
from recsys.items.item_table import items_table
from recsys.lake.lake import write_parquet
from recsys.settings import Settings
from training.choices import Augmentation
from training.config import Config
from training.nightly.ranker import NIGHT
from training.two_tower.config import TwoTowerConfig
from training.two_tower.sequences import History, write_sequences

COMMANDS = {  # → the section of its first training
    "train recall": "",
    "train rank": "loop.",
    "train rank --compress": "student_loop.",
    "train private": "loop.",
    "train private --model two-tower": "loop.",
    "train all": "recall.",
    "train all --compress": "recall.",
    "train nightly": "recall.",
    "tune recall": "",
    "evaluate recall --protocol leave-one-out --data log.txt": "",
}


class Shape(Config):
    dim: int = Field(8, ge=1, le=64, description="Width.")
    layers: tuple[int, ...] = Field((4, 2), description="Widths of layers.")


class Training(Config):
    work: Path = Field(description="Decided by the command.")
    shape: Shape = Field(Shape(), description="The model's size.")
    rate: float = Field(0.1, gt=0, lt=1, description="Learning rate.")
    epochs: int = Field(3, ge=1, description="Passes.")
    kind: Augmentation | None = Field(None, description="How inputs vary.")
    extra: Shape | None = Field(None, description="A second model.")
    repeats: dict[Head, float] | None = Field(None, description="Days until an item may return.")
    weights: dict[Head, float] = Field({Head.CLICK: 1.0, Head.LIKE: 0.5}, description="Of the heads.")
    exact: bool = Field(False, description="Whether exactly.")

    @model_validator(mode="after")
    def _bound(self) -> "Training":
        if self.epochs > 90 and self.exact:
            raise ValueError("exact: too slow for so many epochs")
        return self


BASE = Training(work=Path("work"))
PLANNED = Planned(BASE, {"work": "the command's own"}, {"epochs": "for the size"}, {"kind": "--kind"})


def of(*changes: str, file: Path | None = None) -> Training:
    return TrainingOptions(file, changes).of(PLANNED)


def test_nothing_given_changes_nothing() -> None:
    assert of() == BASE


def test_keys_are_nested_by_dots_and_the_last_one_counts() -> None:
    found = of("shape.dim=16", "shape.layers=[3]", "rate=2e-1", "weights.like=2", "epochs=5", "epochs=7")
    assert found == BASE.replace(
        shape=Shape(dim=16, layers=(3,)),
        rate=0.2,
        weights={Head.CLICK: 1.0, Head.LIKE: 2.0},
        epochs=7,
    )


def test_a_section_that_is_empty_can_be_made_and_left() -> None:
    assert of("extra={}").extra == Shape()
    assert of("extra.dim=9").extra == Shape(dim=9)
    assert of("extra.dim=9", "extra=null").extra is None
    assert of("repeats.like=3").repeats == {Head.LIKE: 3}
    assert of("repeats={}").repeats == {}
    assert of("shape={}", "shape.dim=9").shape == Shape(dim=9)


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("shape: {dim: 16}\nepochs: 5\nkind: mask\nexact: yes\n")
    assert of("epochs=6", file=file) == BASE.replace(
        shape=Shape(dim=16), epochs=6, exact=True
    )  # --kind was given


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("epoch=3", ("unknown setting epoch", "the nearest: epochs")),
        ("dims=3", ("the nearest: shape.dim",)),
        ("shape.layer=3", ("the nearest: shape.layers",)),
        ("epochs=0", ("epochs: 0 is not allowed: an integer, at least 1",)),
        ("shape.dim=65", ("65 is not allowed: an integer, at least 1, at most 64",)),
        ("rate=1", ("1 is not allowed: a number, above 0, below 1",)),
        ("rate=.inf", ("inf is not allowed",)),
        ("rate=.nan", ("nan is not allowed",)),
        ("epochs=many", ("many is not allowed: an integer",)),
        ("epochs=true", ("true is not allowed: an integer",)),
        ("exact=perhaps", ("perhaps is not allowed: true or false",)),
        ("extra.dim=0", ("extra.dim: 0 is not allowed",)),
        ("shape.layers=[1, x]", ("shape.layers: x is not allowed: a list, each an integer",)),
        ("shape=3", ("shape: 3 is not allowed: the settings dim, layers",)),
        ("weights.buy=1", ("unknown setting weights.buy",)),
        ("work=x", ("work cannot be set: the command's own",)),
        ("epochs", ("write it as KEY=VALUE",)),
        ("epochs=[", ("not a value of YAML",)),
        ("kind=drop", ("kind: given by --kind and by --set; leave one",)),
    ],
)
def test_a_refusal_names_key_and_advice(change: str, parts: Sequence[str]) -> None:
    with pytest.raises(InvalidConfig) as error:
        of(change)
    for part in ("--set", *parts):
        assert part in str(error.value)


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="exact: too slow"):
        of("epochs=91", "exact=true")


@pytest.mark.parametrize(
    "content", ["- epochs", "epochs: {a: 1}", "shape: [1]", "epochs: 3: 4", "work: x", "1: 2"]
)
def test_a_wrong_file_is_refused_by_name(content: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(InvalidConfig, match=r"mine\.yaml"):
        of(file=file)
    with pytest.raises(InvalidConfig, match=r"other\.yaml"):
        of(file=tmp_path / "other.yaml")


def test_a_shown_configuration_has_meaning_range_and_reason() -> None:
    lines = as_yaml(BASE, PLANNED.decided, PLANNED.reasons).splitlines()
    assert "work" not in "".join(lines)
    at = lines.index("epochs: 3")
    assert lines[at - 2 : at] == ["# Passes. An integer, at least 1.", "# For the size."]
    assert lines[lines.index("  dim: 8") - 1] == "  # Width. An integer, at least 1, at most 64."


def test_a_reason_is_shown_only_of_what_the_command_chose(capsys: pytest.CaptureFixture[str]) -> None:
    for change, expected in (("shape.dim=9", True), ("epochs=3", True), ("epochs=4", False)):
        with pytest.raises(BaseException):  # noqa: B017 - typer's own, which ends the command
            TrainingOptions(None, [change], show=True).of(PLANNED)
        assert ("For the size" in capsys.readouterr().out) is expected


@settings(max_examples=50)
@given(
    st.builds(
        Training,
        work=st.just(Path("work")),
        shape=st.builds(
            Shape, dim=st.integers(1, 64), layers=st.lists(st.integers(0, 9), max_size=3).map(tuple)
        ),
        rate=st.floats(0, 1, exclude_min=True, exclude_max=True),
        epochs=st.integers(1, 90),
        kind=st.sampled_from([None, *Augmentation]),
        extra=st.none() | st.builds(Shape),
        repeats=st.none() | st.dictionaries(st.sampled_from(Head), st.floats(0, 9)),
        exact=st.booleans(),
    )
)
def test_what_is_shown_is_read_back(config: Training) -> None:
    shown = yaml.safe_load(as_yaml(config, PLANNED.decided, {}))
    assert Training.model_validate({"work": "work", **shown}) == config


def test_every_setting_of_the_trainings_is_described() -> None:
    for cls in (TwoTowerConfig, FullTraining, CompressedTraining):
        for key, setting in settings_of(cls).items():
            of_an_enum = key.rpartition(".")[0].endswith(("loss_weights", "repeats"))
            assert setting.meaning or of_an_enum, key
            assert setting.allowed, key


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the features of two users."""
    items = [Item("a"), Item("b")]
    histories = [History(user, *(np.array([1, 2]) for _ in range(3))) for user in ("u", "v")]
    write_sequences(tmp_path / "features" / "sequences" / "a.parquet", histories, items)
    write_parquet(tmp_path / "lake" / "items" / "items.parquet", items_table(items))
    (tmp_path / "log.txt").write_text("u a b c\nv b c a\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_reads_back_what_it_shows(command: str, home: Path) -> None:
    section = COMMANDS[command]
    changed = [f"--set={section}epochs=7", f"--set={section}learning_rate=1e-3"]
    line = [*command.split(), "--show-config"]
    first = CliRunner().invoke(app, [*line, *changed])
    assert first.exit_code == 0, first.output
    assert "epochs: 7" in first.stdout
    file = home / "shown.yaml"
    file.write_text(first.stdout)
    assert CliRunner().invoke(app, [*line, "--config", str(file)]).stdout == first.stdout
    assert not (home / "work").exists()  # nothing was trained


@pytest.mark.parametrize(
    ("command", "loops"),
    [("rank", 1), ("rank --compress", 3), ("all", 1), ("all --compress", 3), ("nightly", 3)],
)
def test_every_command_that_trains_a_ranker_can_train_it_under_attack(
    command: str, loops: int, home: Path
) -> None:
    line = ["train", *command.split(), "--show-config"]
    shown = CliRunner().invoke(app, [*line, "--robust=0.05"])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.count("attack: 0.05") == loops
    assert CliRunner().invoke(app, line).stdout.count("attack: 0.0\n") == loops


def test_a_night_is_trained_under_the_plans_attack(home: Path) -> None:
    plan = compressed_plan(Settings(), 3, None, 1, {}, robust=0.05).config
    loop = night_loop(plan)
    assert (loop.seed, loop.attack, loop.attack_steps) == (3, 0.05, 1)
    assert loop.replace(seed=0, attack=0) == NIGHT


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("recall --epochs 2 --set epochs=3", "epochs: given by --epochs"),
        ("recall --seed 2 --set seed=3", "seed: given by --seed"),
        ("rank --robust 1 --set loop.attack=3", "loop.attack: given by --robust"),
        ("rank --compress --epochs 1 --set student_loop.epochs=3", "student_loop.epochs: given by --epochs"),
        ("all --recall-epochs 2 --set recall.epochs=3", "recall.epochs: given by --recall-epochs"),
        ("all --compress --rank-epochs 2 --set rank.teacher_loop.epochs=3", "given by --rank-epochs"),
        ("recall --set sequences=x", "sequences cannot be set"),
        ("all --set rank.out=x", "rank.out cannot be set"),
        ("all --set epochs=3", "unknown setting epochs; the nearest: recall.epochs"),
        ("recall --set shape.heads=3", "3 does not divide dim 64"),
        ("rank --set model.attention_heads=3", "3 does not divide width 32"),
    ],
)
def test_a_command_refuses(line: str, key: str, home: Path) -> None:
    error = CliRunner().invoke(app, ["train", *line.split()]).exception
    assert isinstance(error, InvalidConfig)
    assert key in str(error)


def test_what_was_chosen_by_size_is_shown_with_its_reason(home: Path) -> None:
    shown = CliRunner().invoke(app, ["train", "all", "--show-config", "--rank-epochs=2"]).stdout.splitlines()
    at = shown.index("  loss: full")
    assert shown[at - 1] == "  # 2 items are at most 100,000."
    assert "  validation: none" in shown
    given = CliRunner().invoke(app, ["train", "recall", "--show-config", "--epochs=9"]).stdout.splitlines()
    assert "fixed" not in given[given.index("epochs: 9") - 1]
