"""`recsys evaluate rank`: the ranker against baselines on real impressions (`training.kuairand_rank`).

What a model has scored is kept in a work folder: an interrupted evaluation goes on with the next model.

Every model sees the same rows; the published baseline sees its own 40 simple features, all others every group. The
teacher is the mean, in log odds, of the multi-task network with dot-product attention, of the same with DIN's, of
LightGBM and of logistic regression; the student is one small network that learnt from both labels and teacher, and
`int8` is the student as it would be served.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.metrics import auc, gauc, xauc
from recsys.models.blocks import numeric_statistics
from recsys.models.ranker import Ranker, RankerConfig, RankerData, RankerLogits
from recsys.result import Goal, Result
from recsys.types import Head
from training.compress import quantize_linear_layers
from training.distill import Distillation, distillation
from training.export_ranker import export_ranker
from training.gates import auc_difference, gauc_difference
from training.kept import Kept
from training.kuairand_rank import Kuairand, categorical, examples, load, split, video_fields
from training.ladder import onnx_scores, quantized_tables
from training.rank_baselines import DWELL, Logits, Matrix, TreesConfig, logistic_regression, trees
from training.rank_dataset import RankExamples
from training.rank_loop import LoopConfig, Objective, fit, predict_logits
from training.seeding import seed_everything

Floats = NDArray[np.float64]
HEADS = ("click", "long_view", "like", DWELL)
PARTS = ("train", "validation", "test")
TEST = PARTS.index("test")

LOOP = LoopConfig(
    epochs=3, batch_size=512, learning_rate=1e-3, weight_decay=1e-3, embedding_decay=1e-2, patience=1
)
FOREST = TreesConfig(learning_rate=0.08, columns=0.3, bins=63)
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
GOALS = {
    "teacher_click_auc": Goal(">=", 0.765),
    "teacher_click_gauc": Goal(">=", 0.645),
    "teacher_long_view_auc": Goal(">=", 0.767),
    "teacher_long_view_gauc": Goal(">=", 0.662),
    "teacher_like_auc": Goal(">=", 0.890),
    "teacher_dwell_xauc": Goal(">=", 0.695),
    "teacher_dwell_mae_s": Goal("<=", 18.3),
    "int8_click_auc": Goal(">=", 0.763),
    "int8_long_view_auc": Goal(">=", 0.765),
    "int8_like_auc": Goal(">=", 0.888),
    "int8_dwell_xauc_below_teacher": Goal("<=", 0.002),
}


@dataclass(frozen=True)
class RankEvaluation:
    """What to run. `seeds`: as many runs, from `seed`; `contributions`: also LightGBM with each group left out."""

    data: Path
    seed: int = 0
    seeds: int = 3
    work: Path | None = None  # where scores are kept; None: nowhere
    quick: bool = False  # one seed, one epoch, few trees
    contributions: bool = True
    loop: LoopConfig = field(default_factory=lambda: LOOP)
    distillation: Distillation = field(default_factory=lambda: Distillation(weight=0.8))


def main(config: RankEvaluation, report: Callable[[str], None] = lambda line: None) -> Result:
    """Train and judge every model.

    Args:
        report: called with one line a finished model.
    """
    torch.set_num_threads(1)
    if config.quick:
        config = replace(config, seeds=1, contributions=False, loop=replace(config.loop, epochs=1))
    bench = _Bench(config)
    report(bench.describe())
    figures: dict[str, float] = {}
    judged: dict[str, list[dict[str, float]]] = {}
    first: dict[str, Mapping[str, Floats]] = {}
    for seed in range(config.seed, config.seed + config.seeds):
        for name, logits in bench.models(replace(config.loop, seed=seed)):
            judged.setdefault(name, []).append(bench.judge(logits))
            first.setdefault(name, logits)
            report(f"seed {seed} {name}: " + ", ".join(f"{k} {v:.4f}" for k, v in judged[name][-1].items()))
    for name, runs in judged.items():
        for figure in runs[0]:
            values = [run[figure] for run in runs]
            figures[f"{name}_{figure}"] = float(np.mean(values))
            if len(values) > 1:
                figures[f"{name}_{figure}_sd"] = float(np.std(values, ddof=1))
    figures["int8_dwell_xauc_below_teacher"] = figures["teacher_dwell_xauc"] - figures["int8_dwell_xauc"]
    for pair in (("teacher", "lightgbm_baseline"), ("int8", "teacher")):
        figures |= bench.compare(*pair, first)
    if config.contributions:
        figures |= bench.contributions()
    return Result("evaluate rank", config.seed, figures, GOALS)


class _Bench:
    """The data in the forms that the models want, and the judge."""

    def __init__(self, config: RankEvaluation) -> None:
        self.config = config
        self.data: Kuairand = load(config.data)
        names = self.data.names()
        self.masks = split(self.data)
        rows = examples(self.data, names)
        self.parts = {part: rows.take(mask) for part, mask in self.masks.items()}
        self.ranker_data = _ranker_data(self.data, self.parts["train"], names)
        labels = {**{h: self.data.labels[h] for h in HEADS[:3]}, DWELL: np.log1p(self.data.labels["dwell_s"])}
        self.labels = {part: {h: v[mask] for h, v in labels.items()} for part, mask in self.masks.items()}
        self._kept = Kept(config.work, about=(names, config.quick))

    def describe(self) -> str:
        sizes = ", ".join(f"{part} {len(rows):,}" for part, rows in self.parts.items())
        return f"rows: {sizes}; features: {len(self.data.names())} in {len(self.data.groups)} groups"

    def models(self, loop: LoopConfig) -> Iterator[tuple[str, Mapping[str, Floats]]]:
        """(name, logits of the test rows by head) of every model; comparisons run under the first seed only."""
        most, seed = 40 if self.config.quick else 600, loop.seed
        if seed == self.config.seed:
            yield "lightgbm_baseline", self.forest(TreesConfig(trees=most, seed=seed), "static")[TEST]
            for name, shape in (("dcn_alone", DCN_ALONE), ("din_alone", DIN_ALONE)):
                yield name, self.answers(name, shape, loop)[TEST]

        forest = self.forest(replace(FOREST, trees=most, seed=seed))
        yield "lightgbm", forest[TEST]
        linear = self._kept("logistic", "", self.logistic)
        yield "logistic", linear[TEST]
        found = [linear, forest]
        for name, shape in (("network", NETWORK), ("din_network", DIN_NETWORK)):
            found.append(self.answers(name, shape, loop))
            yield name, found[-1][TEST]
        on_train, _, on_test = (blend(*part) for part in zip(*found, strict=True))
        yield "teacher", on_test

        everything = (FOREST, NETWORK, DIN_NETWORK, STUDENT, loop, self.config.distillation)
        student, int8 = self._kept("student", everything, partial(self.student, on_train, loop))
        yield "student", student
        yield "int8", int8

    def answers(self, name: str, shape: RankerConfig, loop: LoopConfig) -> list[Logits]:
        """Train a network; its logits of `PARTS`."""

        def compute() -> list[Logits]:
            network = self.network(name, shape, loop)
            return [of_network(predict_logits(network, self.parts[part])) for part in PARTS]

        return self._kept(name, (shape, loop), compute)

    def student(self, teacher: Logits, loop: LoopConfig) -> list[Logits]:
        """Distilled from the teacher's logits of the training rows: the student's of the test rows, in fp32 and as it
        is served."""
        objective = distillation(as_answers(teacher), loop, self.config.distillation)
        student = self.network("student", STUDENT, replace(loop, epochs=loop.epochs + 2), objective)
        test = self.parts["test"]
        return [of_network(predict_logits(student, test)), of_network(self.served(student, loop.seed))]

    def forest(self, config: TreesConfig, *groups: str) -> list[Logits]:
        """LightGBM on these groups (default: all); logits of `PARTS`."""
        found: list[Logits] = [{} for _ in PARTS]
        for head in HEADS:
            one_head = self._kept(
                f"trees-{head}", (config, groups), partial(self.trees, config, groups, head)
            )
            for all_heads, logits in zip(found, one_head, strict=True):
                all_heads |= logits
        return found

    def trees(self, config: TreesConfig, groups: tuple[str, ...], head: str) -> list[Logits]:
        """As `forest`, of one head."""
        train, validation, test = self.matrices(*groups)
        labels, held_out = ({head: self.labels[part][head]} for part in PARTS[:2])
        return trees(train, labels, validation, held_out, [train, validation, test], config)

    def logistic(self) -> list[Logits]:
        """Logits of `PARTS`."""
        parts = self.matrices()
        return logistic_regression(parts[0], self.labels["train"], parts)

    def matrices(self, *groups: str) -> list[Matrix]:
        matrix = self.data.matrix(self.data.names(*groups))
        return [matrix[mask] for mask in self.masks.values()]

    def network(
        self, name: str, shape: RankerConfig, loop: LoopConfig, objective: Objective | None = None
    ) -> Ranker:
        """Trained; an interrupted training goes on from its last epoch."""
        seed_everything(loop.seed)
        ranker = Ranker(shape, self.ranker_data)
        work = self.config.work
        path = None if work is None else work / f"{name}-{loop.seed}-{loop.epochs}.checkpoint"
        fit(ranker, self.parts["train"], self.parts["validation"], loop, objective, checkpoints=path)
        return ranker

    def served(self, student: Ranker, seed: int) -> RankerLogits:
        """The student with INT8 rows and INT8 matrix products, scored by onnxruntime."""
        data = self.ranker_data
        with tempfile.TemporaryDirectory() as folder:
            rows, both = Path(folder, "rows.onnx"), Path(folder, "int8.onnx")
            quantized = quantized_tables(student, 8)
            export_ranker(
                quantized, rows, data.n_items, data.n_features, self.parts["test"].history.shape[1], seed
            )
            quantize_linear_layers(rows, both)
            scores = onnx_scores(both, self.parts["test"])
        odds = [_logit(scores[head].astype(np.float64)) for head in (Head.CLICK, Head.CONVERSION, Head.LIKE)]
        return RankerLogits(*map(torch.from_numpy, (*odds, scores[Head.DWELL].astype(np.float64))))

    def judge(self, logits: Mapping[str, Floats]) -> dict[str, float]:
        """The issue's figures on the test rows."""
        labels, users = self.labels["test"], self.parts["test"].users
        found = {}
        for head in HEADS[:3]:
            happened = labels[head].astype(np.int64)
            found[f"{head}_auc"] = auc(happened, logits[head])
            found[f"{head}_gauc"] = gauc(happened, logits[head], users)
        seconds, predicted = np.expm1(labels[DWELL]), np.expm1(np.maximum(logits[DWELL], 0))
        found["dwell_xauc"] = xauc(seconds, predicted, pairs=2_000_000)
        found["dwell_mae_s"] = float(np.abs(seconds - predicted).mean())
        return found

    def compare(self, ours: str, theirs: str, logits: Mapping[str, Mapping[str, Floats]]) -> dict[str, float]:
        """Differences under the first seed with their 95 % bootstrap intervals (rows for AUC, users for GAUC)."""
        labels, users = self.labels["test"], self.parts["test"].users
        found: dict[str, float] = {}
        for head in HEADS[:3]:
            y, a, b = (x.astype(np.float32) for x in (labels[head], logits[ours][head], logits[theirs][head]))
            for metric, difference in (
                ("auc", auc_difference(y, a, b)),
                ("gauc", gauc_difference(y, a, b, users)),
            ):
                name = f"{ours}_over_{theirs}_{head}_{metric}"
                found |= {
                    name: difference.value,
                    f"{name}_low": difference.low,
                    f"{name}_high": difference.high,
                }
        return found

    def contributions(self) -> dict[str, float]:
        """What each group adds to the static one, and what all lose without it: LightGBM's click AUC and GAUC."""
        found: dict[str, float] = {}
        others = [group for group in self.data.groups if group != "static"]
        chosen: dict[str, tuple[str, ...]] = {f"with_{g}": ("static", g) for g in others}
        chosen |= {f"without_{g}": tuple(h for h in self.data.groups if h != g) for g in others}
        for name, groups in chosen.items():
            trees_of = partial(self.trees, FOREST, groups, "click")
            logits = self._kept("trees-click", (FOREST, groups), trees_of)[TEST]
            happened = self.labels["test"]["click"].astype(np.int64)
            found[f"group_{name}_click_auc"] = auc(happened, logits["click"])
            found[f"group_{name}_click_gauc"] = gauc(happened, logits["click"], self.parts["test"].users)
        return found


def of_network(logits: RankerLogits) -> Logits:
    """Logits by the yardstick's heads: a long view is a click and its conversion, over all rows."""
    click, conversion, like, dwell = (part.numpy().astype(np.float64) for part in logits)
    return {
        "click": click,
        "long_view": _logit(_sigmoid(click) * _sigmoid(conversion)),
        "like": like,
        DWELL: dwell,
    }


def as_answers(logits: Mapping[str, Floats]) -> RankerLogits:
    """The inverse of `of_network`: conversion given a click again, as the student's head is."""
    given_click = _sigmoid(logits["long_view"]) / np.maximum(_sigmoid(logits["click"]), 1e-6)
    columns = (logits["click"], _logit(np.clip(given_click, 1e-4, 1 - 1e-4)), logits["like"], logits[DWELL])
    return RankerLogits(*(torch.from_numpy(column.astype(np.float32)) for column in columns))


def blend(*models: Mapping[str, Floats]) -> Logits:
    """The mean of the logits, head by head."""
    return {head: np.mean([logits[head] for logits in models], axis=0) for head in HEADS}


def _ranker_data(data: Kuairand, train: RankExamples, names: tuple[str, ...]) -> RankerData:
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


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


def _logit(p: Floats) -> Floats:
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return np.asarray(np.log(p) - np.log1p(-p))
