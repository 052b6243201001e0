"""`recsys features select`: which features the ranking needs, and which crosses would help. LightGBM on clicks judges.

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
from dataclasses import asdict, dataclass, replace
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
    """`<feature> <operation> <feature>`; `gain` in validation AUC on top of the finished model."""

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

    def select(self, names: Sequence[str], chosen: Sequence[str]) -> "Split":
        """The chosen columns, which may be crosses."""
        columns = [
            cross(name, self.features, names) if " " in name else self.features[:, names.index(name)]
            for name in chosen
        ]
        return Split(np.stack(columns, axis=1), self.clicks, self.users)


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
        InvalidData: a period has a single click label: nothing can be ranked.
    """
    for period, rows in (("training", train), ("validation", validation), ("test", test)):
        if not 0 < rows.clicks.mean() < 1:
            raise InvalidData(f"the {period} rows have one click label only; import more days")
    model = fit(config, train, validation)
    ranked = _ranked(config, model, names, validation)
    kept = _kept(config, ranked, names, train, validation, auc(validation.clicks, scores(model, validation)))
    crosses = propose(config, ranked, names, kept, train, validation)

    figures = {"features": float(len(names)), "kept": float(len(kept)), "crosses": float(len(crosses))}
    crossed = [*kept, *(one.name for one in crosses)]
    for which, chosen in (("all", names), ("kept", kept), ("crossed", crossed)):
        model = fit(config, train.select(names, chosen), validation.select(names, chosen))
        for period, rows in (("validation", validation), ("test", test)):
            values = scores(model, rows.select(names, chosen))
            figures[f"{period}_auc_{which}"] = auc(rows.clicks, values)
            figures[f"{period}_gauc_{which}"] = gauc(rows.clicks, values, rows.users)
    dropped = [name for name in names if name not in kept]
    for one in ranked:
        verdict = "  dropped" if one.name in dropped else ""
        report(f"{one.name}: gain {one.gain:.2%}, cost {one.cost:.5f}{verdict}")
    for proposed in crosses:
        report(f"proposed: {proposed.name}, validation AUC +{proposed.gain:.5f}")
    config.out.mkdir(parents=True, exist_ok=True)
    content = {
        "ranked": [asdict(one) for one in ranked],
        "dropped": dropped,
        "crosses": [asdict(one) for one in crosses],
        "figures": figures,
    }
    (config.out / "selection.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    goals = {"validation_auc_kept": Goal(">=", figures["validation_auc_all"] - config.tolerance)}
    return Result("features select", config.seed, figures, goals)


def fit(config: Selection, train: Split, validation: Split) -> lgb.Booster:
    """Early-stopped trees."""
    data = lgb.Dataset(train.features, train.clicks)
    held_out = lgb.Dataset(validation.features, validation.clicks, reference=data)
    some = min(1.0, max(0.3, 12 / train.features.shape[1]))  # of the columns, drawn for each tree; of few all
    parameters = _parameters(config) | {"learning_rate": 0.08, "num_leaves": 31, "feature_fraction": some}
    stop = lgb.early_stopping(30, verbose=False)
    return lgb.train(parameters, data, config.trees, valid_sets=[held_out], callbacks=[stop])


def scores(model: lgb.Booster, rows: Split) -> Score:
    """Log odds."""
    return np.asarray(model.predict(rows.features, raw_score=True, num_threads=1))


def _ranked(config: Selection, model: lgb.Booster, names: Sequence[str], rows: Split) -> list[Ranked]:
    """The most costly to shuffle first. A feature that no tree reads costs nothing, and is not shuffled."""
    gains = np.asarray(model.feature_importance("gain"), np.float64)
    gains /= max(gains.sum(), 1e-12)
    rng = np.random.default_rng(config.seed)
    clean = auc(rows.clicks, scores(model, rows))
    found = []
    for i, name in enumerate(names):
        losses = []
        for _ in range(config.repeats if gains[i] > 0 else 0):
            features = rows.features.copy()
            features[:, i] = rng.permutation(features[:, i])
            losses.append(clean - auc(rows.clicks, scores(model, replace(rows, features=features))))
        found.append(Ranked(name, float(gains[i]), float(np.mean(losses or [0.0]))))
    return sorted(found, key=lambda one: (-one.cost, -one.gain, one.name))


def _kept(
    config: Selection,
    ranked: list[Ranked],
    names: Sequence[str],
    train: Split,
    validation: Split,
    full: float,
) -> list[str]:
    """Features that stay. Useless alone need not be useless together, so the refitted model decides: while it loses
    more than the tolerance, the better half of what was dropped comes back."""
    useless = [one.name for one in ranked if one.cost < config.noise]
    while useless:
        kept = [name for name in names if name not in useless]
        if kept:
            ours, theirs = train.select(names, kept), validation.select(names, kept)
            if auc(theirs.clicks, scores(fit(config, ours, theirs), theirs)) >= full - config.tolerance:
                return kept
        useless = useless[(len(useless) + 1) // 2 :]  # ranked: the worst are last
    return list(names)


def propose(
    config: Selection,
    ranked: list[Ranked],
    names: Sequence[str],
    kept: list[str],
    train: Split,
    validation: Split,
) -> list[Cross]:
    """Pairs of the strongest kept features, best first, whose few trees raise the validation AUC."""
    strongest = [one.name for one in ranked if one.name in kept][: config.crossed]
    rows = [period.select(names, kept) for period in (train, validation)]
    model = fit(config, *rows)
    before = [scores(model, period) for period in rows]
    known = auc(validation.clicks, before[1])
    found = []
    for first, second in itertools.combinations(sorted(strongest, key=names.index), 2):
        for sign in OPERATIONS:
            name = f"{first} {sign} {second}"
            column = [period.select(names, [name]).features for period in (train, validation)]
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
    """The column of a cross, (n,) float32. Division by 0 is NaN."""
    first, sign, second = name.split(" ")
    a, b = (features[:, names.index(one)] for one in (first, second))
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(OPERATIONS[sign](a, b), np.float32)


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
