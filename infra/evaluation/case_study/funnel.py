"""Quality on real data: what each recall channel can reach, and how well rankers order.

Needs the data sets' folders; without them the sheet says so. No row of the table follows from it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from infra.evaluation.case_study.section import Found, Sheet
from recsys.result import Result
from training.choices import Protocol
from training.evaluation import recall as evaluate_recall
from training.evaluation.kuairand import evaluate as evaluate_rank
from training.evaluation.kuairand.benchmark import RankEvaluation
from training.evaluation.recall import TWO_TOWER, RecallEvaluation

MOVIELENS, KUAIRAND = "ml-100k", "kuairand-pure-part"
_PROTOCOLS = {MOVIELENS: Protocol.TEMPORAL, KUAIRAND: Protocol.KUAIRAND}
_HEADS = ("click", "long_view", "like")
_RANKERS = {"teacher": "before: teacher", "int8": "after: student in 8 bits"}


@dataclass(frozen=True)
class Funnel:
    """`data`: folder with `ml-100k`, `kuairand-pure-part` or both; None: skipped. `work`: state of an interrupted
    evaluation, which resumes. `is_quick`: MovieLens only, where both are present."""

    name: ClassVar[str] = "funnel"
    data: Path | None
    work: Path
    seed: int = 0
    is_quick: bool = False

    def measure(self) -> Found:
        """
        Raises:
            InvalidData: a data set is there and cannot be read.
        """
        there = [name for name in _PROTOCOLS if self.data is not None and (self.data / name).is_dir()]
        if not there:
            why = f"--data FOLDER with {MOVIELENS} or {KUAIRAND} was not given" + (
                f": {self.data} has neither" if self.data else ""
            )
            return Found([], [Sheet("Quality on real data", [], [], f"Not measured: {why}.")])
        sheets, data = [], {}
        if self.is_quick and MOVIELENS in there:
            there = [MOVIELENS]  # KuaiRand's models take a quarter of an hour
        for name in there:
            result = evaluate_recall.main(self._recall(name))
            sheets.append(channels(name, result))
            data[f"recall_{name}"] = dict(result.figures)
        if KUAIRAND in there:
            result = evaluate_rank.main(self._rank())
            sheets.append(rankers(result))
            data["rank"] = dict(result.figures)
        return Found([], sheets, data)

    def _recall(self, name: str) -> RecallEvaluation:
        return RecallEvaluation(
            data=self._folder / name,
            protocol=_PROTOCOLS[name],
            work=self.work / f"recall-{name}",
            seed=self.seed,
            threads=1,
            quick=self.is_quick,
            training={"epochs": 8} if self.is_quick else {},  # one epoch of the small tower learns nothing
        )

    def _rank(self) -> RankEvaluation:
        return RankEvaluation(
            data=self._folder / KUAIRAND,
            seed=self.seed,
            seeds=1,
            work=self.work / "rank",
            is_quick=self.is_quick,
            contributions=False,
        )

    @property
    def _folder(self) -> Path:
        return self.data or Path()


def channels(name: str, result: Result) -> Sheet:
    """A channel's ceiling is its hit rate at 200; what it loses until the list of ten if nothing ranks after it."""
    figures = result.figures
    models = sorted(key.removesuffix("_coverage10") for key in figures if key.endswith("_coverage10"))
    models = [TWO_TOWER, *(model for model in models if model != TWO_TOWER)]
    lines: list[list[str | float]] = []
    for model in models:
        ceiling, shown = figures[f"{model}_hr200"], figures[f"{model}_hr10"]
        lost = 1 - shown / ceiling if ceiling else 0.0
        lines.append(
            [model, ceiling, figures[f"{model}_hr50"], shown, f"{lost:.0%}", figures[f"{model}_coverage10"]]
        )
    return Sheet(
        f"Recall on {name} (real data)",
        ["channel", "ceiling: hit rate at 200", "at 50", "at 10", "lost from 200 to 10", "catalogue covered at 10"],
        lines,
        f"{figures['cases']:.0f} held-out cases by time, full catalogue, seed {result.seed}; both arms have all.",
    )  # fmt: skip


def rankers(result: Result) -> Sheet:
    """What `recsys evaluate rank-benchmark` found of the two that the arms serve."""
    lines: list[list[str | float]] = []
    for model, label in _RANKERS.items():
        for head in _HEADS:
            names = (f"{model}_{head}_{metric}" for metric in ("auc", "gauc", "calibration_error"))
            lines.append([label, head, *(result.figures[name] for name in names)])
    return Sheet(
        f"Ranking on {KUAIRAND} (real data)",
        ["ranker", "head", "AUC", "GAUC", "calibration error"],
        lines,
        f"Impressions of held-out days, seed {result.seed}; calibration error: of the"
        " raw probabilities, in 20 bins.",
    )
