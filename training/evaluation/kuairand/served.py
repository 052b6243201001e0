"""`recsys evaluate rank --protocol kuairand`: the served ranker, on the served features, on KuaiRand's test days.

This is the product's own path: import the log into a lake, build examples with Spark, train the compression ladder as
`recsys train rank --compress` does, score the test days with the exported models. Rows, split and labels are those of
the model benchmark (`training.evaluation.kuairand.evaluate`), whose own features no product path serves.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidData
from recsys.datasets.catalogue import items_path
from recsys.datasets.formats import KUAIRAND
from recsys.features.definitions import FEATURES
from recsys.items.item_table import read_items
from recsys.result import Goal, Result
from training.compression import ladder
from training.compression.configs import HISTORY_LENGTH, lake_ladder
from training.compression.ladder_input import input_of_periods
from training.compression.variants import published, read_variants
from training.evaluation.kuairand.judge import Judge, of_scores
from training.evaluation.kuairand.log import Kuairand, load, split
from training.evaluation.lake import imported
from training.evaluation.ranking.baselines import FOREST, Logits, TreesConfig, trees
from training.evaluation.ranking.examples import Report, ServedRanker, build_examples
from training.evaluation.ranking.model import scores_as_served
from training.evaluation.ranking.score_cache import ScoreCache
from training.evaluation.ranking.scoreboard import Floats, Scoreboard
from training.ranker.dataset import RankExamples, read_examples

TREES, PUBLISHED = "lightgbm", "lightgbm_published"
LADDER = ("teacher", "int8")


def main(config: ServedRanker, report: Report = lambda line: None) -> Result:
    """Build the examples, train, judge. Figures `served_…` are of the variant that would be published.

    Args:
        report: receives one line per finished step.

    Raises:
        InvalidData: a file is missing, or the examples do not fit the log.
    """
    torch.set_num_threads(1)
    build_examples(config, imported(config.data, config.work / "lake", KUAIRAND, report), report)
    report("next: read the log for its labels and the published baseline's features")
    evaluation = _Evaluation(config, report)
    judge = Judge(evaluation.labels["test"], evaluation.rows["test"].users)
    board = Scoreboard(judge, report)
    for seed in range(config.seed, config.seed + config.seeds):
        for name, logits in evaluation.models(seed):
            board.add(seed, name, logits)
    figures = board.means() | evaluation.sizes
    for other in (TREES, PUBLISHED):
        figures |= judge.compare(board, "served", other)
    goals = {f"served_click_{m}": Goal(">=", figures[f"{PUBLISHED}_click_{m}"]) for m in ("auc", "gauc")}
    report(
        "next: `recsys evaluate rank-benchmark` compares architectures on richer features (docs/ranking.md)"
    )
    return Result("evaluate rank", config.seed, figures, goals)


def in_log_order(rows: RankExamples, item_ids: Sequence[str], log: Kuairand) -> RankExamples:
    """The examples in the order of the log's rows, so that its split and labels apply to them.

    Raises:
        InvalidData: there are other examples than rows of the log.
    """
    videos = log.videos.astype(str)
    order = np.lexsort((videos, log.users.astype(str), log.time_ms))  # as `read_examples` sorts
    numbers = {item: i for i, item in enumerate(item_ids, start=1)}
    wanted = np.array([numbers.get(video, 0) for video in videos[order].tolist()])
    if not (np.array_equal(rows.time_ms, log.time_ms[order]) and np.array_equal(rows.items, wanted)):
        raise InvalidData(
            f"{len(rows):,} examples do not fit the log's {len(order):,} impressions; delete the work folder"
        )
    return rows.take(np.argsort(order))


class _Evaluation:
    """Examples and labels of the three periods, and the models that are compared on them."""

    def __init__(self, config: ServedRanker, report: Report) -> None:
        self.config, self.report, self.log = config, report, load(config.data)
        self.items = read_items(items_path(config.work / "lake"))
        ids = [item.item_id for item in self.items]
        folder = config.work / "features" / "examples"
        rows = in_log_order(read_examples(folder, ids, FEATURES.dimension, HISTORY_LENGTH), ids, self.log)
        self.masks, labels = split(self.log), self.log.by_head()
        self.rows = {period: rows.take(mask) for period, mask in self.masks.items()}
        self.labels = {p: {head: c[mask] for head, c in labels.items()} for p, mask in self.masks.items()}
        self.sizes: dict[str, float] = {}
        self._cached = ScoreCache(config.work / "scores", about=FEATURES.fingerprint)
        counts = ", ".join(f"{period} {len(rows):,}" for period, rows in self.rows.items())
        report(f"rows: {counts}; {FEATURES.dimension} served features")

    def models(self, seed: int) -> Iterator[tuple[str, Mapping[str, Floats]]]:
        """(name, logits of the test rows) of each model; the published baseline under the first seed only."""
        if seed == self.config.seed:
            static = self.log.matrix(self.log.names("static"))
            columns = [static[mask] for mask in self.masks.values()]
            yield PUBLISHED, self._trees(PUBLISHED, columns, TreesConfig(trees=self.config.trees, seed=seed))
        columns = [rows.features for rows in self.rows.values()]
        yield TREES, self._trees(TREES, columns, FOREST.replace(trees=self.config.trees, seed=seed))
        yield from self._ladder(seed)

    def _trees(self, name: str, columns: list[NDArray[np.float32]], config: TreesConfig) -> Logits:
        train, validation, test = columns

        def compute() -> list[Logits]:
            return trees(train, self.labels["train"], validation, self.labels["validation"], [test], config)

        return self._cached(name, config, compute)[0]

    def _ladder(self, seed: int) -> Iterator[tuple[str, Mapping[str, Floats]]]:
        """The gates judge the validation day, too: nothing is chosen by the test days."""
        config = lake_ladder(self.config.work / f"ladder-{seed}", seed, self.config.epochs)
        config = config.replace(compared=False)
        train, validation, test = self.rows.values()

        def compute() -> list[Logits]:
            shapes = config.teacher, config.student
            given = input_of_periods(self.items, train, validation, validation, *shapes)
            names = (*LADDER, published(ladder.main(config, given, self.report)).name)
            scored = {name: of_scores(scores_as_served(config.out / name, test)) for name in {*names}}
            return [scored[name] for name in names]

        yield from zip((*LADDER, "served"), self._cached("ladder", config, compute), strict=True)
        variants = read_variants(config.out)
        self.sizes |= {f"{v.name}_mb": v.bytes / 1e6 for v in variants if v.name in LADDER}
        self.sizes["served_mb"] = published(variants).bytes / 1e6
        self.report(f"seed {seed}: {published(variants).name} is published")
