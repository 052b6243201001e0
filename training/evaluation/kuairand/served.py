"""`recsys evaluate rank`: the served ranker, on the served features, judged on KuaiRand's test days.

This is the product's own path: import the log into a lake, build examples with Spark, train the compression ladder as
`recsys train rank --compress` does, score the test days with the exported models. Rows, split and labels are those of
the model benchmark (`training.evaluation.kuairand.evaluate`), whose own features no product path serves.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from recsys.contracts.errors import InvalidData
from recsys.datasets.catalogue import items_path
from recsys.datasets.formats import KUAIRAND
from recsys.datasets.importer import REPORT, import_dataset
from recsys.datasets.opening import open_dataset
from recsys.features.definitions import FEATURES
from recsys.items.item_table import read_items
from recsys.ranking.calibration import calibrate, read_calibrations
from recsys.ranking.compiled import open_ranker
from recsys.result import Goal, Result
from training.compression import ladder
from training.compression.configs import HISTORY_LENGTH, lake_ladder
from training.compression.gates import Scores
from training.compression.ladder_input import input_of_periods
from training.compression.variants import published, read_variants
from training.config import Config
from training.evaluation.kuairand.judge import Floats, Scoreboard, of_scores
from training.evaluation.kuairand.log import Kuairand, load, split
from training.evaluation.ranking.baselines import FOREST, Logits, TreesConfig, trees
from training.evaluation.ranking.score_cache import ScoreCache
from training.features.job import FeatureJob, build
from training.features.spark import spark_session
from training.ranker.artifacts import CALIBRATION
from training.ranker.dataset import RankExamples, read_examples

Report = Callable[[str], None]
TREES, PUBLISHED = "lightgbm", "lightgbm_published"
LADDER = ("teacher", "int8")


class ServedEvaluation(Config):
    """What to train, and on what."""

    data: Path = Field(description="Folder of the KuaiRand-Pure slice.")
    work: Path = Field(
        description="Lake, examples, ladders and scores; an interrupted run continues from it."
    )
    seed: int = Field(0, ge=0, description="The first seed.")
    seeds: int = Field(3, ge=1, description="Number of runs, one per seed.")
    epochs: int = Field(4, ge=1, description="Of the teacher, at most, as in `recsys train rank`.")
    trees: int = Field(600, ge=1, description="Of each LightGBM, at most.")
    master: str = Field("local[*]", description="Spark master of the feature job.")
    memory: str = Field("2g", description="Memory of the Spark driver.")

    def quick(self) -> Self:
        """One seed, one epoch, few trees."""
        return self.replace(seeds=1, epochs=1, trees=40)


def main(config: ServedEvaluation, report: Report = lambda line: None) -> Result:
    """Build the examples, train, judge. Figures `served_…` are of the variant that would be published.

    Args:
        report: receives one line per finished step.

    Raises:
        InvalidData: a file is missing, or the examples do not fit the log.
    """
    torch.set_num_threads(1)
    build_examples(config, report)
    report("next: read the log for its labels and the published baseline's features")
    evaluation = _Evaluation(config, report)
    board = Scoreboard(evaluation.labels["test"], evaluation.rows["test"].users, report)
    for seed in range(config.seed, config.seed + config.seeds):
        for name, logits in evaluation.models(seed):
            board.add(seed, name, logits)
    figures = board.means() | evaluation.sizes
    for other in (TREES, PUBLISHED):
        figures |= board.compare("served", other)
    goals = {f"served_click_{m}": Goal(">=", figures[f"{PUBLISHED}_click_{m}"]) for m in ("auc", "gauc")}
    report(
        "next: `recsys evaluate rank-benchmark` compares architectures on richer features (docs/ranking.md)"
    )
    return Result("evaluate rank", config.seed, figures, goals)


def build_examples(config: ServedEvaluation, report: Report) -> None:
    """`recsys data import` and `recsys features build` in the work folder; what exists is not built again."""
    lake, features = config.work / "lake", config.work / "features"
    if not (lake / REPORT).exists():
        report(f"next: import {config.data} into {lake}")
        import_dataset(open_dataset(config.data, KUAIRAND), lake)
    report(f"next: build examples in {features}")
    spark = spark_session(config.master, config.memory)
    try:
        job = FeatureJob(lake=lake.absolute().as_posix(), output=features.absolute().as_posix())
        build(spark, job, report)
    finally:
        spark.stop()


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

    def __init__(self, config: ServedEvaluation, report: Report) -> None:
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


def scores_as_served(folder: Path, rows: RankExamples) -> Scores:
    """Calibrated scores of a variant's exported ranker."""
    return calibrate(ladder.row_scores(open_ranker(folder), rows), read_calibrations(folder / CALIBRATION))
