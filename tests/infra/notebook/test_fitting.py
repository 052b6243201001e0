"""Settings are those of the two-tower; a wrong one is refused, with the nearest names."""

from pathlib import Path

import pytest

from infra.notebook.fitting import two_tower_config
from recsys.contracts.errors import InvalidConfig
from training.choices import quick_epochs

HOME = Path("home")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("learning_rates", "unknown setting 'learning_rates'; did you mean learning_rate"),
        ("work", "unknown setting 'work'"),
        ("dim", r"dim: is part of the shape: shape=\{'dim'"),
        ("epochs", "epochs: Input should be greater than or equal to 1"),
        ("shape", "shape.size: Extra inputs"),
    ],
)
def test_a_wrong_setting_is_refused(name: str, message: str) -> None:
    wrong = {"epochs": 0, "shape": {"size": 3}}
    with pytest.raises(InvalidConfig, match=message):
        two_tower_config(HOME, {name: wrong.get(name, 1)})


def test_settings_arrive() -> None:
    config = two_tower_config(HOME, {"shape": {"dim": 32}, "seed": 3, "validation": "time"})
    assert (config.shape.dim, config.seed, config.validation) == (32, 3, "time")


def test_epochs_shrink_with_the_log() -> None:
    assert [quick_epochs(events) for events in (0, 100_000, 300_000, 10_000_000)] == [8, 8, 3, 1]
