"""The offline gate of a release: the candidate against the serving bundle on the newest day's impressions.

A floor, not a verdict. The candidate may have been trained on a part of these rows, so that winning here proves little;
losing does. Differences carry a paired bootstrap over users: both bundles are judged on the same rows.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recsys.bundle import Bundle, open_bundle
from recsys.contracts.types import MS_PER_DAY, Head
from recsys.experiments.release import Check
from recsys.features.drift import HISTOGRAMS, drift, read_histograms
from recsys.items.item_table import read_items
from recsys.metrics import calibration_error, ranks_of, recalls
from recsys.ranking.calibration import calibrate, read_calibrations
from recsys.ranking.compiled import open_ranker
from recsys.ranking.taste import TASTE, read_taste
from recsys.recall.item_vectors import ItemVectors
from recsys.recall.two_tower import UserTower
from recsys.signatures import read_public_keys
from training.bootstrap import Estimate, bootstrap, mean_differences
from training.compression.gates import auc_difference, gauc_difference
from training.compression.ladder import row_scores
from training.config import Config
from training.evaluation.log_health import day_counts, log_checks
from training.ranker.artifacts import CALIBRATION
from training.ranker.dataset import RankExamples, read_examples, rows_of_days
from training.ranker.fit_taste import TasteOffsets

_Floats = NDArray[np.float64]
_DIFFERENT = 0.25  # PSI of another population
_AT_ONCE = 256  # users whose items are ranked together
_PROBED = 200  # rows that are ranked as if their items were new
UNDEFINED = "undefined: too few rows of either outcome"


class GateConfig(Config):
    """What to compare, and how much the candidate may lose."""

    candidate: Path = Field(description="Folder of the candidate's bundle.")
    serving: Path = Field(description="Folder of the serving bundle.")
    examples: Path = Field(description="Folder of the examples that `recsys features build` wrote.")
    keys: Path | None = Field(None, description="Public keys, one of which must have signed both; None: any.")
    rows: int = Field(10_000, ge=100, description="Impressions of the newest day that are ranked, by users.")
    cases: int = Field(2_000, ge=10, description="Clicks of the newest day that recall must find.")
    history: int = Field(50, ge=1, description="Newest events of each history.")
    k: int = Field(100, ge=1, description="Places of the recall list.")
    auc_drop: float = Field(0.005, ge=0, description="Loss of click AUC, or of GAUC, that is tolerated.")
    recall_drop: float = Field(
        0.05, ge=0, description="The same of recall, relative to the serving bundle's."
    )
    calibration_rise: float = Field(0.005, ge=0, description="The same of the expected calibration error.")
    different: float = Field(
        0.1,
        ge=0,
        description="Share of features of another population than in training, beyond the serving's.",
    )
    coverage: float = Field(
        0.5, ge=0, le=1, description="Least share of the serving bundle's distinct items."
    )
    seed: int = Field(0, ge=0, description="Seed of samples and bootstrap.")


def main(config: GateConfig) -> tuple[Check, ...]:
    """Every check, those with a `problem` failed.

    Raises:
        InvalidBundle: a bundle is damaged or not signed.
        InvalidData: there are no examples.
    """
    keys = read_public_keys(config.keys)
    bundles = [open_bundle(folder, keys) for folder in (config.candidate, config.serving)]
    counts = day_counts(config.examples)
    candidate, serving = (_Side(bundle, config) for bundle in bundles)
    return (
        *log_checks(counts),
        *_ranking(candidate, serving, config),
        *_recall(candidate, serving, config),
        _features(candidate, serving, config),
        _finite(candidate, serving),
    )


class _Side:
    """One bundle's scores on the newest day."""

    def __init__(self, bundle: Bundle, config: GateConfig) -> None:
        self.bundle = bundle
        items, names = read_items(bundle.file("items.parquet")), bundle.manifest.feature_names
        taste = read_taste(bundle.path) if TASTE in bundle.manifest.files else None
        newest = sorted(rows_of_days(config.examples))[-2:]  # a day that has just begun and the one before it
        rows = read_examples(
            config.examples,
            [item.item_id for item in items],
            len(names),
            config.history,
            newest,
            TasteOffsets(taste, items) if taste else None,
        )
        rows = rows.take(rows.time_ms > rows.time_ms[-1] - MS_PER_DAY)
        self.rows = rows.take(_some_users(rows, config))
        self.clicked = np.flatnonzero(rows.label(Head.CLICK) > 0)[-config.cases :]
        self.cases = rows.take(self.clicked)
        self._ranker = open_ranker(bundle.path)
        self.raw = row_scores(self._ranker, self.rows)
        known = CALIBRATION in bundle.manifest.files
        calibrations = read_calibrations(bundle.file(CALIBRATION)) if known else {}
        self.click = calibrate(self.raw, calibrations)[Head.CLICK]

    @property
    def finite(self) -> float:
        """Share of the scores, also of new items, that are finite."""
        probe = self.rows.take(slice(-_PROBED, None))
        new = row_scores(self._ranker, replace(probe, items=np.zeros_like(probe.items)))
        scores = np.concatenate([found[head] for found in (self.raw, new) for head in Head])
        return float(np.isfinite(scores).mean())

    def ranks(self) -> tuple[NDArray[np.int64], int]:
        """(cases,) rank of each clicked item among all, a large one if the bundle does not have it; and the number of
        distinct items among everybody's first ten."""
        items = ItemVectors.of(self.bundle.arrays("item_vectors.safetensors"))
        tower = UserTower(self.bundle.file("user_tower.onnx"), items.vectors, linear=items.linear)
        vectors = items.indexed
        ranks, first = [], []
        for part in _parts(self.cases):
            inputs = (a.astype(np.int64) for a in (part.history, part.types, part.gaps))
            scores = tower.vectors(*inputs) @ vectors.T
            found = ranks_of(scores, np.maximum(part.items - 1, 0))
            ranks.append(np.where(part.items > 0, found, len(vectors)))
            first.append(np.argpartition(-scores, min(10, scores.shape[1] - 1), axis=1)[:, :10])
        return np.concatenate(ranks), len(np.unique(np.concatenate(first)))


def _parts(rows: RankExamples) -> Iterator[RankExamples]:
    return (rows.take(slice(first, first + _AT_ONCE)) for first in range(0, len(rows), _AT_ONCE))


def _some_users(rows: RankExamples, config: GateConfig) -> NDArray[np.int64]:
    """All rows of drawn users, about `config.rows` in all."""
    order = np.random.default_rng(config.seed).permutation(int(rows.users.max()) + 1)
    taken = np.cumsum(np.bincount(rows.users)[order]) <= max(config.rows, 1)
    taken[0] = True
    return np.flatnonzero(np.isin(rows.users, order[taken]))


def _ranking(candidate: _Side, serving: _Side, config: GateConfig) -> Iterator[Check]:
    labels, users = serving.rows.label(Head.CLICK), serving.rows.users
    ours, theirs = (np.nan_to_num(side.click, nan=0.0) for side in (candidate, serving))
    for name, found in (
        ("click_auc", auc_difference(labels, ours, theirs, seed=config.seed)),
        ("click_gauc", gauc_difference(labels, ours, theirs, users, seed=config.seed)),
    ):
        yield _lost(name, found, config.auc_drop)
    yield _calibrated(labels, users, ours, theirs, config)


def _calibrated(
    labels: NDArray[np.float32],
    users: NDArray[np.int64],
    ours: NDArray[np.float32],
    theirs: NDArray[np.float32],
    config: GateConfig,
) -> Check:
    happened = (labels > 0).astype(np.int64)

    def figures(drawn: _Floats) -> list[float]:
        rows = np.repeat(np.arange(len(labels)), drawn[users].astype(np.int64))
        errors = [calibration_error(happened[rows], scores[rows]) for scores in (ours, theirs)]
        return [errors[1] - errors[0]]  # less is better

    (found,) = bootstrap(figures, int(users.max()) + 1, rounds=100, seed=config.seed)
    check = _lost("calibration", found, config.calibration_rise)
    values = [calibration_error(happened, scores) for scores in (ours, theirs)]
    return Check(check.name, values[0], values[1], check.problem)


def _recall(candidate: _Side, serving: _Side, config: GateConfig) -> Iterator[Check]:
    if not len(serving.cases):
        yield Check("recall", None, None, UNDEFINED)
        return
    sides = [side.ranks() for side in (candidate, serving)]
    ours, theirs = (recalls(ranks, config.k) for ranks, _ in sides)
    (found,) = mean_differences(ours[None], theirs[None], serving.cases.users, seed=config.seed)
    check = _lost("recall", found, config.recall_drop * float(theirs.mean()))
    yield Check("recall", float(ours.mean()), float(theirs.mean()), check.problem)
    distinct, usual = (n for _, n in sides)
    few = distinct < config.coverage * usual
    yield Check(
        "coverage", distinct, usual, f"only {distinct} distinct items in recall's first ten" if few else ""
    )


def _lost(name: str, found: Estimate, tolerated: float) -> Check:
    """Fails with a loss that is certainly larger than what is tolerated: the whole interval lies beyond it."""
    interval = f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}] against the serving bundle"
    if np.isnan(found.value):
        return Check(name, None, None, UNDEFINED)
    return Check(name, found.value, 0.0, interval if found.high < -tolerated else "")


def _features(candidate: _Side, serving: _Side, config: GateConfig) -> Check:
    ours, theirs = _moved(candidate), _moved(serving)
    if ours is None or theirs is None:
        return Check("feature_psi", ours, theirs)
    moved = ours > theirs + config.different
    problem = f"{ours:.0%} of the features are of another population than in training" if moved else ""
    return Check("feature_psi", ours, theirs, problem)


def _moved(side: _Side) -> float | None:
    """Share of the features whose PSI against the bundle's training says another population."""
    if HISTOGRAMS not in side.bundle.manifest.files:
        return None
    names = side.bundle.manifest.feature_names
    found = drift(read_histograms(side.bundle.file(HISTOGRAMS)), names, side.rows.features[:, : len(names)])
    return float(np.mean([psi > _DIFFERENT for psi in found.values()]))


def _finite(candidate: _Side, serving: _Side) -> Check:
    ours, theirs = candidate.finite, serving.finite
    problem = f"{1 - ours:.1%} of the scores are NaN or infinite" if ours < 1 else ""
    return Check("finite_scores", ours, theirs, problem)
