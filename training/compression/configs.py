"""Which ladder a command means: synthetic ids at the case study's size or small, or the lake's own examples."""

from dataclasses import replace
from pathlib import Path

from recsys.datasets.catalogue import items_path
from recsys.features.definitions import FEATURES
from recsys.models.ranker import RankerConfig
from recsys.settings import Settings
from training.compression.ladder import STUDENT, LadderConfig
from training.compression.ladder_input import LadderInput, lake_input, synthetic_input
from training.compression.synthetic import LadderData
from training.ranker.artifacts import read_shape
from training.ranker.loop import LoopConfig

HISTORY_LENGTH = 50


def ladder_folder(settings: Settings, lake: bool = False, quick: bool = False) -> Path:
    """Where the ladder is built: one folder per kind of data."""
    name = "ladder-lake" if lake else "ladder-quick" if quick else "ladder"
    return settings.home / "work" / name


def ladder_setup(
    settings: Settings,
    lake: bool,
    quick: bool,
    seed: int,
    epochs: int = 4,
    student: Path | None = None,
    attack: float = 0.0,
) -> tuple[LadderConfig, LadderInput]:
    """The configuration and the data.

    Args:
        lake: the lake's examples; the teacher is then what `recsys train rank` trains, for `epochs`.
        student: shape from `recsys tune rank`; default: the ladder's own.
        attack: epsilon of adversarial training, with `lake`.
    """
    out = ladder_folder(settings, lake, quick)
    config = lake_ladder(out, seed, epochs, attack) if lake else LadderConfig(out=out, seed=seed)
    if student is not None:
        config = config.replace(student=read_shape(student))
    if not lake:
        data = LadderData.quick(seed) if quick else LadderData(seed=seed)
        return config, synthetic_input(data, config.teacher, config.student)
    return config, lake_ladder_input(settings, config)


def lake_ladder(out: Path, seed: int, epochs: int, attack: float = 0.0) -> LadderConfig:
    """The ladder of `recsys train rank --compress`: its teacher is what `recsys train rank` trains, for `epochs`.
    `attack`: of adversarial training, of every step."""
    return LadderConfig(
        out=out,
        teacher=RankerConfig(),
        student=replace(STUDENT, item_buckets=0),  # a lake's catalogue needs no hashing
        teacher_loop=LoopConfig(epochs=epochs, attack=attack),
        student_loop=LoopConfig(epochs=2 * epochs, attack=attack),
        tuning_loop=LoopConfig(epochs=epochs, learning_rate=1e-3, attack=attack),
        seed=seed,
    )


def lake_ladder_input(settings: Settings, config: LadderConfig) -> LadderInput:
    """The lake's examples for a ladder of these shapes."""
    examples, items = settings.features / "examples", items_path(settings.lake)
    return lake_input(examples, items, FEATURES.dimension, HISTORY_LENGTH, config.teacher, config.student)
