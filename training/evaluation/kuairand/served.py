"""`recsys evaluate rank`: the served ranker, on the served features, judged on KuaiRand's test days.

This is the product's own path: import the log into a lake, build examples with Spark, train the compression ladder as
`recsys train rank --compress` does, score the test days with the exported variant. Rows, split and labels are those of
the model benchmark (`training.evaluation.kuairand.evaluate`), whose own features no product path serves.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from recsys.contracts.errors import InvalidData
from recsys.datasets.catalogue import items_path
from recsys.datasets.formats import KUAIRAND
from recsys.datasets.importer import REPORT, import_dataset
from recsys.datasets.opening import open_dataset
from recsys.features.definitions import FEATURES
from recsys.items.item_table import read_items
from recsys.ranking.calibration import calibrate, read_calibrations
from recsys.result import Goal, Result
from training.compression import ladder
from training.compression.configs import HISTORY_LENGTH, lake_ladder
from training.compression.ladder_input import input_of_periods
from training.compression.variants import ONNX, published, read_variants
from training.evaluation.kuairand.baselines import FOREST, Logits, TreesConfig, trees
from training.evaluation.kuairand.judge import Floats, compare, judge, means, of_scores
from training.evaluation.kuairand.log import Kuairand, load, split
from training.evaluation.kuairand.score_cache import ScoreCache
from training.features.job import FeatureJob, build
from training.features.spark import spark_session
from training.ranker.dataset import RankExamples, read_examples

Report = Callable[[str], None]
SERVED, TEACHER, TREES, PUBLISHED = "served", "teacher", "lightgbm", "lightgbm_published"


class ServedEvaluation(BaseModel):
    """What to train, and on what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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

    def quick(self) -> "ServedEvaluation":
        """One seed, one epoch, few trees."""
        return self.model_copy(update={"seeds": 1, "epochs": 1, "trees": 40})


def main(config: ServedEvaluation, report: Report = lambda line: None) -> Result:
    """Build the examples, train, judge.

    Args:
        report: receives one line per finished step.

    Raises:
        InvalidData: a file is missing, or the examples do not fit the log.
    """
    torch.set_num_threads(1)
    build_examples(config, report)
    report("next: read the log for its labels and the published baseline's features")
    evaluation = _Evaluation(config)
    report(evaluation.describe())
    judged: dict[str, list[dict[str, float]]] = {}
    first: dict[str, Mapping[str, Floats]] = {}
    sizes: list[dict[str, float]] = []
    labels, users = evaluation.labels["test"], evaluation.rows["test"].users
    for seed in range(config.seed, config.seed + config.seeds):
        for name, logits in evaluation.models(seed, report, sizes):
            judged.setdefault(name, []).append(judge(labels, users, logits))
            first.setdefault(name, logits)
            line = ", ".join(f"{k} {v:.4f}" for k, v in judged[name][-1].items())
            report(f"seed {seed} {name}: {line}")
    figures = means(judged) | {name: float(np.mean([size[name] for size in sizes])) for name in sizes[0]}
    for other in (TREES, PUBLISHED):
        figures |= compare(labels, users, SERVED, other, first)
    goals = {
        f"{SERVED}_click_{metric}": Goal(">=", figures[f"{PUBLISHED}_click_{metric}"])
        for metric in ("auc", "gauc")
    }
    report(
        "next: docs/ranking.md explains the figures; `recsys evaluate rank-benchmark` compares architectures"
    )
    return Result("evaluate rank", config.seed, figures, goals)


def build_examples(config: ServedEvaluation, report: Report) -> None:
    """`recsys data import` and `recsys features build`, into the work folder; what is there is not built again."""
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


def in_log_order(rows: RankExamples, item_ids: list[str], log: Kuairand) -> RankExamples:
    """The examples in the order of the log's rows, so that its split and labels apply to both.

    Raises:
        InvalidData: there are other examples than rows of the log.
    """
    users, videos = log.users.astype(str), log.videos.astype(str)
    order = np.lexsort((videos, users, log.time_ms))  # as `read_examples` sorts
    numbers = {item: i for i, item in enumerate(item_ids, start=1)}
    wanted = np.array([numbers.get(video, 0) for video in videos[order].tolist()])
    if not (np.array_equal(rows.time_ms, log.time_ms[order]) and np.array_equal(rows.items, wanted)):
        raise InvalidData(
            f"{len(rows):,} examples do not fit the log's {len(order):,} impressions; delete the work folder"
        )
    return rows.take(np.argsort(order))


class _Evaluation:
    """Examples and labels of the three periods, and the models that are compared on them."""

    def __init__(self, config: ServedEvaluation) -> None:
        self.config, self.log = config, load(config.data)
        self.items = read_items(items_path(config.work / "lake"))
        ids = [item.item_id for item in self.items]
        examples = read_examples(
            config.work / "features" / "examples", ids, FEATURES.dimension, HISTORY_LENGTH
        )
        examples, self.masks = in_log_order(examples, ids, self.log), split(self.log)
        self.rows = {period: examples.take(mask) for period, mask in self.masks.items()}
        self.labels = {
            period: {head: column[mask] for head, column in self.log.by_head().items()}
            for period, mask in self.masks.items()
        }
        self._cached = ScoreCache(config.work / "scores", about=(FEATURES.fingerprint, config.trees))

    def describe(self) -> str:
        sizes = ", ".join(f"{period} {len(rows):,}" for period, rows in self.rows.items())
        return f"rows: {sizes}; {FEATURES.dimension} served features"

    def models(
        self, seed: int, report: Report, sizes: list[dict[str, float]]
    ) -> Iterator[tuple[str, Mapping[str, Floats]]]:
        """(name, logits of the test rows) of each model; `sizes` receives the served variant's."""
        static = self.log.matrix(self.log.names("static"))
        if seed == self.config.seed:
            config = TreesConfig(trees=self.config.trees, seed=seed)
            published = [static[mask] for mask in self.masks.values()]
            yield PUBLISHED, self._trees(PUBLISHED, published, config)
        config = replace(FOREST, trees=self.config.trees, seed=seed)
        yield TREES, self._trees(TREES, [rows.features for rows in self.rows.values()], config)
        yield from self._ladder(seed, report, sizes)

    def _trees(self, name: str, matrices: list[NDArray[np.float32]], config: TreesConfig) -> Logits:
        train, validation, test = matrices

        def compute() -> list[Logits]:
            return trees(train, self.labels["train"], validation, self.labels["validation"], [test], config)

        return self._cached(name, config, compute)[0]

    def _ladder(
        self, seed: int, report: Report, sizes: list[dict[str, float]]
    ) -> Iterator[tuple[str, Mapping[str, Floats]]]:
        """The teacher and the variant that would be published. The gates judge the validation day: nothing is chosen
        by the test days."""
        config = replace(
            lake_ladder(self.config.work / f"ladder-{seed}", seed, self.config.epochs), compared=False
        )
        rows = self.rows
        given = input_of_periods(
            self.items, rows["train"], rows["validation"], rows["validation"], config.teacher, config.student
        )

        def compute() -> list[Logits]:
            found = ladder.main(config, given, report)
            folders = [config.out / variant.name for variant in (found[0], published(found))]
            return [of_scores(scores_as_served(folder, rows["test"])) for folder in folders]

        yield from zip((TEACHER, SERVED), self._cached("ladder", config, compute), strict=True)
        served = published(read_variants(config.out))
        teacher = read_variants(config.out)[0]
        report(f"seed {seed}: {served.name} is served, {served.bytes / 1e6:.2f} MB")
        sizes.append({"teacher_mb": teacher.bytes / 1e6, "served_mb": served.bytes / 1e6})


def scores_as_served(folder: Path, rows: RankExamples) -> ladder.Scores:
    """Calibrated scores of a variant's exported ranker."""
    return calibrate(ladder.onnx_scores(folder / ONNX, rows), read_calibrations(folder / "calibration.json"))
