"""`recsys evaluate rank --protocol temporal`: the served ranker on any log, judged on its newest examples.

Examples come from the Spark job with the served features, the ranker is trained as `recsys train rank` does it, and its
export scores the test rows. Alongside, on the same rows and columns: LightGBM and logistic regression; the items' past
rates (`popularity`), the positions' (`position`, which no ranker knows before it ranks), and the mean rate (`prior`).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import Head, Item
from recsys.datasets.catalogue import items_path
from recsys.features.definitions import FEATURES
from recsys.items.item_table import read_items
from recsys.result import Goal, Result
from training.choices import NEWEST_EXAMPLES
from training.evaluation.lake import imported
from training.evaluation.ranking.baselines import (
    FOREST,
    Labels,
    Logits,
    TreesConfig,
    logistic_regression,
    smoothed_rates,
    trees,
)
from training.evaluation.ranking.examples import Report, ServedRanker, build_examples
from training.evaluation.ranking.measures import BINS, LENGTH, Judge
from training.evaluation.ranking.model import scores_as_served, train_as_served
from training.evaluation.ranking.periods import Periods, read_periods
from training.evaluation.ranking.score_cache import ScoreCache
from training.evaluation.ranking.scoreboard import Scoreboard, logit
from training.evaluation.ranking.split import PERIODS, TimeSplit
from training.ranker.loop import LoopConfig
from training.ranker.train import over_all_rows

SERVED = "served"
RIVALS = ("lightgbm", "logistic", "popularity")  # that the served ranker is to beat
ORDERING = ("click_auc", "click_gauc", f"click_ndcg{LENGTH}")
FEW_ROWS, FEW_CLICKS = 200, 50


class TemporalEvaluation(ServedRanker):
    """Of any log."""

    split: TimeSplit = Field(TimeSplit(), description="By time, into training, validation and test.")
    newest: int = Field(
        NEWEST_EXAMPLES,
        ge=1,
        description="Read only the newest days that have this many examples: memory is bounded.",
    )


def main(config: TemporalEvaluation, report: Report = lambda line: None) -> Result:
    """Build the examples, train, judge. Figures are `<model>_<head>_<figure>` (`measures.Judge`).

    Args:
        report: receives one line per finished step.

    Raises:
        InvalidData: the log cannot be read, or no head can be judged.
    """
    torch.set_num_threads(1)
    lake = imported(config.data, config.work / "lake", report=report)
    folder = build_examples(config, lake, report)
    items = read_items(items_path(lake))
    periods = read_periods(folder, lake, items, config.split, config.newest, config.seed)
    labels = {period: periods.labels(period) for period in PERIODS}
    unmeasured = constant_heads(labels)
    notes = [*about_rows(periods), *unmeasured.values()]
    labels = {p: {h: c for h, c in columns.items() if h not in unmeasured} for p, columns in labels.items()}
    test = labels["test"]
    if not test:
        raise InvalidData(f"{config.data}: no head can be judged. {' '.join(notes)}")
    judge = Judge(test, periods.rows["test"].users, periods.requests)
    board = Scoreboard(judge, report)
    models = Models(config, periods, labels, items)
    for seed in range(config.seed, config.seed + config.seeds):
        for name, logits in models.of(seed):
            board.add(seed, name, logits)
    report("next: intervals")
    figures = sizes(periods, test) | board.means() | judge.intervals(board, SERVED)
    few = too_few(figures)
    notes += [*undefined(figures, test), *few]
    return Result("evaluate rank", config.seed, figures, {} if few else goals(figures), notes)


def constant_heads(labels: Mapping[str, Labels]) -> dict[str, str]:
    """Heads that have one label only in some period, and so no figures; what to say of each."""
    found = {}
    for period, columns in labels.items():
        for head, column in columns.items():
            if column.min() == column.max():
                happened = "all rows" if column.max() else "no row"
                found[head] = f"{head}: not measured, {happened} of the {period} period has it."
    return found


def undefined(figures: Mapping[str, float], heads: Iterable[str]) -> Iterator[str]:
    """Figures that no model has."""
    for head in heads:
        if f"{SERVED}_{head}_gauc" not in figures:
            yield f"{head}_gauc: not measured, no user of the test period has both labels."
        if f"{SERVED}_{head}_ndcg{LENGTH}" not in figures:
            yield f"{head}_ndcg{LENGTH}: not measured, no request of the test period has two rows and a {head}."


def about_rows(periods: Periods) -> Iterator[str]:
    """What a reader must know of the rows that are judged."""
    yield (
        f"Intervals: 95 %, users resampled. Leads are positive where the served ranker is better."
        f" Calibration error: {BINS} bins with equal numbers of rows."
    )
    if not periods.impressions:
        yield (
            f"The test period has no impressions: {periods.drawn:,} of its {len(periods.requests):,} rows are negatives"
            " drawn by popularity, the others what users chose. Compare models by it, not products."
        )
    if periods.not_shown:
        yield f"{periods.not_shown:,} rows of the test period are not impressions and were not judged."
    if periods.not_read:
        yield f"{periods.not_read:,} older examples were not read; `--newest` sets how many are."


def sizes(periods: Periods, test: Labels) -> dict[str, float]:
    """Rows of each period, users, lists and positives of the test."""
    found = {f"{period}_rows": float(len(rows)) for period, rows in periods.rows.items()}
    found["test_users"] = float(len(np.unique(periods.rows["test"].users)))
    found["test_lists"] = float(len(np.unique(periods.requests)))
    return found | {f"test_{head}s": float(column.sum()) for head, column in test.items()}


def too_few(figures: Mapping[str, float]) -> list[str]:
    """A warning where the test is too small to tell models apart."""
    rows, clicks = figures["test_rows"], figures.get("test_clicks", math.inf)
    if rows >= FEW_ROWS and clicks >= FEW_CLICKS:
        return []
    return [
        f"warning: fewer than {FEW_ROWS} test rows or {FEW_CLICKS} clicks: the figures are noise, and there are no"
        " goals."
    ]


def goals(figures: Mapping[str, float]) -> dict[str, Goal]:
    """The served ranker orders clicks better than each rival, and its loss is below the mean rate's."""
    if "test_clicks" not in figures:
        return {}
    found = {
        f"{SERVED}_{figure}": Goal(">", max(figures[f"{rival}_{figure}"] for rival in RIVALS))
        for figure in ORDERING
        if f"{SERVED}_{figure}" in figures
    }
    return found | {f"{SERVED}_click_log_loss": Goal("<", figures["prior_click_log_loss"])}


class Models:
    """The models that are compared, and their log odds of the test rows."""

    def __init__(
        self,
        config: TemporalEvaluation,
        periods: Periods,
        labels: Mapping[str, Labels],
        items: Sequence[Item],
    ) -> None:
        self._config, self._periods, self._labels, self._items = config, periods, labels, items
        rows = [
            (len(rows), int(rows.time_ms[0]), int(rows.time_ms[-1]), rows.labels.sum(axis=0).tolist())
            for rows in periods.rows.values()
        ]
        self._cached = ScoreCache(config.work / "scores", about=(FEATURES.fingerprint, rows))

    def of(self, seed: int) -> Iterator[tuple[str, Logits]]:
        """(name, log odds by head) of each model; those that draw nothing under the first seed only."""
        rows, positions = self._periods.rows, self._periods.positions
        if seed == self._config.seed:
            yield "prior", self._rates({period: np.zeros(len(own), np.int64) for period, own in rows.items()})
            yield "popularity", self._rates({period: own.items for period, own in rows.items()})
            if positions["test"].max() >= 0:
                yield "position", self._rates({period: own + 1 for period, own in positions.items()})
            yield "logistic", self._cached("logistic", "", self._logistic)[0]
        forest = FOREST.replace(trees=self._config.trees, seed=seed)
        yield "lightgbm", self._cached("lightgbm", forest, partial(self._lightgbm, forest))[0]
        loop = LoopConfig(epochs=self._config.epochs, seed=seed)
        wanted = (loop, self._config.seed)  # the taste model is learnt with the first seed
        yield (
            SERVED,
            self._cached(SERVED, wanted, partial(self._served, loop, self._cached.digest(wanted)))[0],
        )

    def _rates(self, codes: Mapping[str, NDArray[np.int64]]) -> Logits:
        return smoothed_rates(codes["train"], self._labels["train"], codes["test"])

    def _logistic(self) -> list[Logits]:
        train, _, test = self._periods.features
        return logistic_regression(train, self._labels["train"], [test])

    def _lightgbm(self, forest: TreesConfig) -> list[Logits]:
        train, validation, test = self._periods.features
        return trees(train, self._labels["train"], validation, self._labels["validation"], [test], forest)

    def _served(self, loop: LoopConfig, name: str) -> list[Logits]:
        train, validation, test = self._periods.rows.values()
        out = self._config.work / f"ranker-{name}"
        train_as_served(out, self._items, train, validation, self._periods.taste, loop)
        scores = over_all_rows(scores_as_served(out, test))
        return [{head: logit(scores[Head(head)].astype(np.float64)) for head in self._labels["test"]}]
