"""The models of the model benchmark, and their scores of its rows. `evaluate` judges them.

Every model sees the same rows; the published baseline sees 40 simple features, all others every group. The teacher is
the mean, in log odds, of two multi-task networks (dot-product attention, DIN), LightGBM and logistic regression. The
student is one small network distilled from it; `int8` is the student as it would be served.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from recsys.models.blocks import numeric_statistics
from recsys.models.ranker import Ranker, RankerConfig, RankerData, RankerLogits
from recsys.ranking.scorer import RankerSession
from training.compression.distill import distillation
from training.compression.ladder import row_scores
from training.compression.quantize import quantize_linear_layers, quantized_tables
from training.config import Config
from training.evaluation.kuairand.judge import HEADS, of_scores
from training.evaluation.kuairand.log import Kuairand, categorical, examples, load, split, video_fields
from training.evaluation.ranking.baselines import (
    DWELL,
    FOREST,
    Logits,
    Matrix,
    TreesConfig,
    logistic_regression,
    trees,
)
from training.evaluation.ranking.score_cache import ScoreCache
from training.evaluation.ranking.scoreboard import Floats, logit, sigmoid
from training.ranker.dataset import RankExamples
from training.ranker.export import export_ranker
from training.ranker.loop import LoopConfig, Objective, fit, predict_logits
from training.seeding import seed_everything

PARTS = ("train", "validation", "test")
TEST = PARTS.index("test")

LOOP = LoopConfig(
    epochs=3, batch_size=512, learning_rate=1e-3, weight_decay=1e-3, embedding_decay=1e-2, patience=1
)
NETWORK = RankerConfig(dropout=0.2)
DIN_NETWORK = replace(NETWORK, attention="din")
DCN_ALONE = replace(NETWORK, attention="none", expert_layers=(), tower_layers=())
DIN_ALONE = replace(NETWORK, attention="din", cross_layers=0, shared_experts=1)
STUDENT = replace(
    NETWORK,
    width=16,
    attention_heads=1,
    curve_width=1,
    shared_experts=1,
    expert_layers=(64, 32),
    cross_layers=1,
)


class RankEvaluation(Config):
    """What to run."""

    data: Path = Field(description="Folder of the KuaiRand-Pure slice.")
    work: Path | None = Field(None, description="Folder of the stored scores; None: nothing is stored.")
    seed: int = Field(0, ge=0, description="The first seed.")
    seeds: int = Field(3, ge=1, description="Number of runs, one per seed.")
    processes: int = Field(1, ge=1, description="Models trained in parallel; more than one needs `work`.")
    is_quick: bool = Field(False, description="One seed, one epoch, few trees.")
    contributions: bool = Field(True, description="Also LightGBM with each feature group left out.")
    loop: LoopConfig = Field(LOOP, description="Training of each network.")
    distillation: float = Field(0.8, ge=0, le=1, description="Weight of the teacher's answers.")


class Benchmark:
    """The data in the forms that the models read."""

    def __init__(self, config: RankEvaluation) -> None:
        self.config = config
        self.data: Kuairand = load(config.data)
        names = self.data.names()
        self.masks = split(self.data)
        rows = examples(self.data, names)
        self.parts = {part: rows.take(mask) for part, mask in self.masks.items()}
        self.ranker_data = ranker_data_of(self.data, self.parts["train"], names)
        labels = self.data.by_head()
        self.labels = {part: {h: v[mask] for h, v in labels.items()} for part, mask in self.masks.items()}
        self._cached = ScoreCache(config.work, about=(names, config.is_quick))

    def describe(self) -> str:
        sizes = ", ".join(f"{part} {len(rows):,}" for part, rows in self.parts.items())
        return f"rows: {sizes}; features: {len(self.data.names())} in {len(self.data.groups)} groups"

    def models(self, loop: LoopConfig) -> Iterator[tuple[str, Mapping[str, Floats]]]:
        """(name, logits of the test rows by head) of every model; comparisons run under the first seed only."""
        for name, (config, groups) in self.forests(loop).items():
            yield name, self.forest(config, groups)[TEST]
        yield "logistic", self.linear()[TEST]
        for name, shape in self.shapes(loop).items():
            yield name, self.answers(name, shape, loop)[TEST]
        yield "teacher", self.teacher(loop)[TEST]
        yield from zip(("student", "int8"), self.distilled(loop), strict=True)

    def forests(self, loop: LoopConfig) -> dict[str, tuple[TreesConfig, tuple[str, ...]]]:
        """Configuration and feature groups (none: all) of each LightGBM."""
        most = 40 if self.config.is_quick else 600
        found: dict[str, tuple[TreesConfig, tuple[str, ...]]] = {
            "lightgbm": (FOREST.replace(trees=most, seed=loop.seed), ())
        }
        if loop.seed != self.config.seed:
            return found
        return {"lightgbm_baseline": (TreesConfig(trees=most, seed=loop.seed), ("static",)), **found}

    def shapes(self, loop: LoopConfig) -> dict[str, RankerConfig]:
        """Each network but the student."""
        found = {"network": NETWORK, "din_network": DIN_NETWORK}
        alone = {"dcn_alone": DCN_ALONE, "din_alone": DIN_ALONE}
        return alone | found if loop.seed == self.config.seed else found

    def teacher(self, loop: LoopConfig) -> list[Logits]:
        """The mean of its parts; logits of `PARTS`."""
        config, groups = self.forests(loop)["lightgbm"]
        found = [self.linear(), self.forest(config, groups)]
        found += [self.answers(name, self.shapes(loop)[name], loop) for name in ("network", "din_network")]
        return [blend(*part) for part in zip(*found, strict=True)]

    def distilled(self, loop: LoopConfig) -> list[Logits]:
        """`student`, stored."""
        everything = (FOREST, NETWORK, DIN_NETWORK, STUDENT, loop, self.config.distillation)
        return self._cached("student", everything, partial(self.student, loop))

    def linear(self) -> list[Logits]:
        """Logistic regression; logits of `PARTS`."""

        def compute() -> list[Logits]:
            parts = self.matrices()
            return logistic_regression(parts[0], self.labels["train"], parts)

        return self._cached("logistic", "", compute)

    def answers(self, name: str, shape: RankerConfig, loop: LoopConfig) -> list[Logits]:
        """Train a network; its logits of `PARTS`."""

        def compute() -> list[Logits]:
            network = self.network(name, shape, loop)
            return [of_network(predict_logits(network, self.parts[part])) for part in PARTS]

        return self._cached(name, (shape, loop), compute)

    def student(self, loop: LoopConfig) -> list[Logits]:
        """Train the student on the labels and the teacher's logits; its logits of the test rows, fp32 and INT8."""
        objective = distillation(as_answers(self.teacher(loop)[0]), loop, self.config.distillation)
        student = self.network("student", STUDENT, loop.replace(epochs=loop.epochs + 2), objective)
        test = self.parts["test"]
        return [of_network(predict_logits(student, test)), self.served(student, loop.seed)]

    def forest(self, config: TreesConfig, groups: tuple[str, ...]) -> list[Logits]:
        """LightGBM on these groups, one model per head; logits of `PARTS`."""
        found: list[Logits] = [{} for _ in PARTS]
        for head in HEADS:
            for all_heads, logits in zip(found, self.tree(config, groups, head), strict=True):
                all_heads |= logits
        return found

    def tree(self, config: TreesConfig, groups: tuple[str, ...], head: str) -> list[Logits]:
        """As `forest`, of one head."""

        def compute() -> list[Logits]:
            train, validation, test = self.matrices(*groups)
            labels, held_out = ({head: self.labels[part][head]} for part in PARTS[:2])
            return trees(train, labels, validation, held_out, [train, validation, test], config)

        return self._cached(f"trees-{head}", (config, groups), compute)

    def matrices(self, *groups: str) -> list[Matrix]:
        matrix = self.data.matrix(self.data.names(*groups))
        return [matrix[mask] for mask in self.masks.values()]

    def network(
        self, name: str, shape: RankerConfig, loop: LoopConfig, objective: Objective | None = None
    ) -> Ranker:
        """Train a network; an interrupted training continues from its last epoch."""
        seed_everything(loop.seed)
        ranker = Ranker(shape, self.ranker_data)
        work = self.config.work
        path = None if work is None else work / f"{name}-{loop.seed}-{loop.epochs}.checkpoint"
        fit(ranker, self.parts["train"], self.parts["validation"], loop, objective, checkpoints=path)
        return ranker

    def served(self, student: Ranker, seed: int) -> Logits:
        """The student with INT8 rows and INT8 matrix products, scored by onnxruntime."""
        data = self.ranker_data
        with tempfile.TemporaryDirectory() as folder:
            rows, both = Path(folder, "rows.onnx"), Path(folder, "int8.onnx")
            quantized = quantized_tables(student, 8)
            export_ranker(
                quantized, rows, data.n_items, data.n_features, self.parts["test"].history.shape[1], seed
            )
            quantize_linear_layers(rows, both)
            return of_scores(row_scores(RankerSession(both), self.parts["test"]))

    def contributions(self) -> Iterator[tuple[str, Mapping[str, Floats]]]:
        """(name, LightGBM's click logits) of each group with the static one alone, and of all groups without it."""
        for name, groups in self.choices().items():
            yield name, self.tree(FOREST, groups, "click")[TEST]

    def choices(self) -> dict[str, tuple[str, ...]]:
        """Groups of features by the name of a contribution."""
        others = [group for group in self.data.groups if group != "static"]
        found: dict[str, tuple[str, ...]] = {f"with_{g}": ("static", g) for g in others}
        return found | {f"without_{g}": tuple(h for h in self.data.groups if h != g) for g in others}

    def jobs(self, loops: Sequence[LoopConfig]) -> list[list[Callable[[], object]]]:
        """Everything that is trained, in stages of independent jobs."""
        first: list[Callable[[], object]] = [self.linear]
        for loop in loops:
            first += [partial(self.answers, name, shape, loop) for name, shape in self.shapes(loop).items()]
        for loop in loops:
            for config, groups in self.forests(loop).values():
                first += [partial(self.tree, config, groups, head) for head in HEADS]
        if self.config.contributions:
            first += [partial(self.tree, FOREST, groups, "click") for groups in self.choices().values()]
        return [first, [partial(self.distilled, loop) for loop in loops]]


def of_network(logits: RankerLogits) -> Logits:
    """A network's logits by head; a long view is a click and its conversion, over all rows."""
    click, conversion, like, dwell = (part.numpy().astype(np.float64) for part in logits)
    return {
        "click": click,
        "long_view": logit(sigmoid(click) * sigmoid(conversion)),
        "like": like,
        DWELL: dwell,
    }


def as_answers(logits: Mapping[str, Floats]) -> RankerLogits:
    """The inverse of `of_network`: conversion given a click, as in the student's head."""
    given_click = sigmoid(logits["long_view"]) / np.maximum(sigmoid(logits["click"]), 1e-6)
    columns = (logits["click"], logit(np.clip(given_click, 1e-4, 1 - 1e-4)), logits["like"], logits[DWELL])
    return RankerLogits(*(torch.from_numpy(column.astype(np.float32)) for column in columns))


def blend(*models: Mapping[str, Floats]) -> Logits:
    """The mean of the logits, head by head."""
    return {head: np.mean([logits[head] for logits in models], axis=0) for head in HEADS}


def ranker_data_of(data: Kuairand, train: RankExamples, names: tuple[str, ...]) -> RankerData:
    """What a network of the benchmark stores of its training rows."""
    codes = categorical(data, names)
    numeric = [i for i in range(len(names)) if i not in {column for column, _ in codes}]
    mean, scale, edges = numeric_statistics(torch.from_numpy(train.features[:, numeric]), NETWORK.bins)
    facts = video_fields(data)
    return RankerData(
        n_items=len(data.video_table),
        n_features=len(names),
        mean=mean,
        scale=scale,
        edges=edges,
        fields=torch.from_numpy(facts.codes),
        field_sizes=facts.sizes,
        categorical=codes,
    )
