"""A tiny run of `recsys evaluate private --model two-tower`: every figure with its interval."""

import math
from pathlib import Path

import numpy as np

from training.evaluation.private.two_tower import PrivateTwoTowerEvaluation, intervals, main
from training.evaluation.sources import SEQUENCES


def test_a_quick_run_has_every_figure(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = [" ".join(map(str, [f"u{user}", *(rng.permutation(30)[:8] + 1)])) for user in range(60)]
    (tmp_path / SEQUENCES).write_text("\n".join(lines), encoding="utf-8")
    config = PrivateTwoTowerEvaluation(data=tmp_path).quick()
    seen: list[str] = []
    result = main(config, seen.append)
    models = ("popularity", "plain", "private_8", "private_3", "private_inf")
    assert [line.partition(":")[0] for line in seen] == list(models)
    for name in models:
        low, value, high = (result.figures[f"{name}_hr10{end}"] for end in ("_low", "", "_high"))
        assert 0 <= low <= value <= high <= 1
        assert value <= result.figures[f"{name}_hr100"] == 1
    assert result.figures["noise_multiplier_private_3"] > result.figures["noise_multiplier_private_8"]
    assert result.figures["noise_multiplier_private_inf"] == 0


def test_a_ratio_is_of_the_same_users() -> None:
    popular = np.tile([0.0, 1.0], 100)
    found = intervals({"popularity_hr10": popular, "private_8_hr10": popular})
    ratios = [found[f"private_8_over_popularity_hr10{end}"] for end in ("_low", "", "_high")]
    assert ratios == [1.0, 1.0, 1.0]
    none = intervals({"popularity_hr10": np.zeros(9), "private_8_hr10": np.ones(9)})
    assert math.isnan(none["private_8_over_popularity_hr10"])
