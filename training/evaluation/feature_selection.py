"""`recsys features select`: which features the ranking needs, which it does not, and which crosses would help.

Trees are the judge (LightGBM on clicks): they take raw features of any scale and are fitted in seconds.

1. Rank: the gain of a feature's splits on the training rows, and what shuffling it costs on the validation rows
   (permutation importance, Breiman 2001).
2. Drop what costs nothing when shuffled, as long as the refitted model's validation score stays.
3. Cross the strongest features in pairs: each product, ratio and difference gets a few trees on top of the finished
   model, and is proposed when they raise its validation AUC.

Choosing on the validation rows flatters the choice, so its effect is shown on the test rows, which choose nothing.
"""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import Head
from recsys.metrics import auc, gauc
from recsys.result import Goal, Result
from training.config import Config
from training.ranker.dataset import RankExamples

Matrix = NDArray[np.float32]
Score = NDArray[np.float64]


class Selection(Config):
    """How to choose."""

    out: Path = Field(description="Folder for `selection.json`.")
    trees: int = Field(300, description="Of each judge, at most.")
    repeats: int = Field(3, description="Shuffles of each feature.")
    noise: float = Field(5e-5, description="AUC; a feature whose shuffling costs less is useless.")
    tolerance: float = Field(2e-4, description="Validation AUC that dropping may cost altogether.")
    crossed: int = Field(8, description="The strongest features, all pairs of which are tried.")
    proposals: int = Field(5, description="Crosses, at most.")
    least_gain: float = Field(1e-4, description="Validation AUC that a cross must add.")
    seed: int = Field(0, ge=0, description="Of trees and shuffles.")


@dataclass(frozen=True)
class Ranked:
    """One feature. `gain`: share of all splits' gain; `cost`: validation AUC lost when it is shuffled."""

    name: str
    gain: float
    cost: float


@dataclass(frozen=True)
class Cross:
    """`first` (× / −) `second`; `gain` in validation AUC on top of the finished model."""

    name: str
    gain: float


@dataclass(frozen=True)
class Split:
    """Rows of one period: features (n, D), clicks (n,), users (n,)."""

    features: Matrix
    clicks: NDArray[np.int64]
    users: NDArray[np.int64]

    @classmethod
    def of(cls, rows: RankExamples) -> "Split":
        return cls(rows.features, rows.label(Head.CLICK).astype(np.int64), rows.users)


def main(
    config: Selection,
    names: Sequence[str],
    train: Split,
    validation: Split,
    test: Split,
    report: Callable[[str], None] = lambda line: None,
) -> Result:
    """Choose, write `selection.json`, show the effect.

    Args:
        names: of the D columns.

    Raises:
        InvalidData: a period has one click label only: nothing can be ranked.
    """
    for period, rows in (("training", train), ("validation", validation), ("test", test)):
        if not 0 < rows.clicks.mean() < 1:
            raise InvalidData(f"the {period} rows have one click label only; import more days")
    everything = list(range(len(names)))
    model = fit(config, train, validation, everything)
    ranked = _ranked(config, model, names, validation)
    kept = _kept(
        config,
        ranked,
        names,
        train,
        validation,
        auc(validation.clicks, scores(model, validation, everything)),
    )
    model_kept = fit(config, train, validation, kept)
    crosses = propose(config, model_kept, ranked, names, kept, train, validation)

    figures = {"features": float(len(names)), "kept": float(len(kept)), "crosses": float(len(crosses))}
    crossed_train, crossed_validation, crossed_test = (
        _crossed(rows, kept, crosses, names) for rows in (train, validation, test)
    )
    all_crossed = list(range(len(kept) + len(crosses)))
    model_crossed = fit(config, crossed_train, crossed_validation, all_crossed)
    for period, rows, crossed in (
        ("validation", validation, crossed_validation),
        ("test", test, crossed_test),
    ):
        found = {
            "all": scores(model, rows, everything),
            "kept": scores(model_kept, rows, kept),
            "crossed": scores(model_crossed, crossed, all_crossed),
        }
        for name, values in found.items():
            figures[f"{period}_auc_{name}"] = auc(rows.clicks, values)
            figures[f"{period}_gauc_{name}"] = gauc(rows.clicks, values, rows.users)
    dropped = [name for i, name in enumerate(names) if i not in set(kept)]
    for one in ranked:
        report(
            f"{one.name}: gain {one.gain:.2%}, cost {one.cost:.5f}{'  dropped' if one.name in dropped else ''}"
        )
    for cross in crosses:
        report(f"proposed: {cross.name}, validation AUC +{cross.gain:.5f}")
    config.out.mkdir(parents=True, exist_ok=True)
    content = {
        "ranked": [asdict(one) for one in ranked],
        "dropped": dropped,
        "crosses": [asdict(cross) for cross in crosses],
        "figures": figures,
    }
    (config.out / "selection.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    goals = {"validation_auc_kept": Goal(">=", figures["validation_auc_all"] - config.tolerance)}
    return Result("features select", config.seed, figures, goals)


def fit(config: Selection, train: Split, validation: Split, columns: list[int]) -> lgb.Booster:
    """Early-stopped trees on these columns."""
    data = lgb.Dataset(train.features[:, columns], train.clicks)
    held_out = lgb.Dataset(validation.features[:, columns], validation.clicks, reference=data)
    some = min(1.0, max(0.3, 12 / len(columns)))  # of the columns, drawn for each tree; of few columns all
    parameters = _parameters(config) | {"learning_rate": 0.08, "num_leaves": 31, "feature_fraction": some}
    stop = lgb.early_stopping(30, verbose=False)
    return lgb.train(parameters, data, config.trees, valid_sets=[held_out], callbacks=[stop])


def scores(model: lgb.Booster, rows: Split, columns: list[int]) -> Score:
    """Log odds."""
    return np.asarray(model.predict(rows.features[:, columns], raw_score=True, num_threads=1))


def _ranked(config: Selection, model: lgb.Booster, names: Sequence[str], rows: Split) -> list[Ranked]:
    """The most costly to shuffle first. A feature that no tree reads costs nothing, and is not shuffled."""
    gains = np.asarray(model.feature_importance("gain"), np.float64)
    gains /= max(gains.sum(), 1e-12)
    rng = np.random.default_rng(config.seed)
    everything = list(range(len(names)))
    clean = auc(rows.clicks, scores(model, rows, everything))
    found = []
    for i, name in enumerate(names):
        losses = [0.0]
        if gains[i] > 0:
            losses = []
            for _ in range(config.repeats):
                features = rows.features.copy()
                features[:, i] = rng.permutation(features[:, i])
                shuffled = Split(features, rows.clicks, rows.users)
                losses.append(clean - auc(rows.clicks, scores(model, shuffled, everything)))
        found.append(Ranked(name, float(gains[i]), float(np.mean(losses))))
    return sorted(found, key=lambda one: (-one.cost, -one.gain, one.name))


def _kept(
    config: Selection,
    ranked: list[Ranked],
    names: Sequence[str],
    train: Split,
    validation: Split,
    full: float,
) -> list[int]:
    """Columns that stay. Useless alone need not be useless together, so the refitted model decides: while it loses
    more than the tolerance, the better half of what was dropped comes back."""
    useless = [one.name for one in ranked if one.cost < config.noise]
    while useless:
        kept = [i for i, name in enumerate(names) if name not in set(useless)]
        if kept and auc(
            validation.clicks, scores(fit(config, train, validation, kept), validation, kept)
        ) >= (full - config.tolerance):
            return kept
        useless = useless[(len(useless) + 1) // 2 :]  # ranked: the worst are last
    return list(range(len(names)))


def propose(
    config: Selection,
    model: lgb.Booster,
    ranked: list[Ranked],
    names: Sequence[str],
    kept: list[int],
    train: Split,
    validation: Split,
) -> list[Cross]:
    """Pairs of the strongest kept features, best first, whose few trees raise the validation AUC."""
    strongest = [one.name for one in ranked if names.index(one.name) in set(kept)][: config.crossed]
    before = [scores(model, rows, kept) for rows in (train, validation)]
    known = auc(validation.clicks, before[1])
    found = []
    for first, second in itertools.combinations(sorted(strongest, key=names.index), 2):
        for sign in OPERATIONS:
            name = f"{first} {sign} {second}"
            column = [cross(name, rows.features, names)[:, None] for rows in (train, validation)]
            data = lgb.Dataset(column[0], train.clicks, init_score=before[0])
            parameters = _parameters(config) | {"learning_rate": 0.1, "num_leaves": 8}
            few = lgb.train(parameters, data, 10)
            after = before[1] + np.asarray(few.predict(column[1], raw_score=True, num_threads=1))
            found.append(Cross(name, auc(validation.clicks, after) - known))
    good = [one for one in found if one.gain >= config.least_gain]
    return sorted(good, key=lambda one: (-one.gain, one.name))[: config.proposals]


OPERATIONS: Mapping[str, Callable[[Matrix, Matrix], NDArray[Any]]] = {
    "×": lambda a, b: a * b,
    "÷": lambda a, b: a / np.where(np.abs(b) < 1e-6, np.float32(np.nan), b),
    "−": lambda a, b: a - b,
}


def cross(name: str, features: Matrix, names: Sequence[str]) -> Matrix:
    """The column of a cross, (n,) float32, by its name: `<feature> <operation> <feature>`. Division by 0 is NaN."""
    first, sign, second = name.split(" ")
    a, b = (features[:, names.index(one)] for one in (first, second))
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(OPERATIONS[sign](a, b), np.float32)


def _crossed(rows: Split, kept: list[int], crosses: list[Cross], names: Sequence[str]) -> Split:
    columns = [cross(one.name, rows.features, names)[:, None] for one in crosses]
    return Split(np.hstack([rows.features[:, kept], *columns]), rows.clicks, rows.users)


def _parameters(config: Selection) -> dict[str, object]:
    return {
        "objective": "binary",
        "metric": "auc",
        "min_data_in_leaf": 50,
        "max_bin": 63,
        "num_threads": 1,
        "seed": config.seed,
        "deterministic": True,
        "verbose": -1,
    }
