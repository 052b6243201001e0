"""`recsys report diversity`: what the diversity dial costs in relevance on held-out data.

EASE scores every item for each test case; the best are reranked as in serving, by MMR and DPP at every position of the
dial, and the lists are compared with the item that came next. Similarity is the cosine of item vectors (truncated SVD
of the training data); categories, which no model here has seen, are the check.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import svds

from infra.evaluation.plotting import pyplot, save
from recsys.contracts.types import Diversity, Item
from recsys.metrics import coverage, intra_list_diversity
from recsys.rerank.diversity import (
    DeterminantalPointProcess,
    MaximalMarginalRelevance,
    Objective,
    Relevance,
    scaled,
    unit,
)
from recsys.rerank.greedy import greedy
from recsys.rerank.reranker import RerankConfig
from recsys.result import Goal, Result
from training.choices import Protocol
from training.evaluation.baselines import TrainingHistories, ease
from training.evaluation.protocols import Split
from training.evaluation.recall import RecallEvaluation, read_split
from training.two_tower.cooccurrence import interactions
from training.two_tower.retrieval import Cases, scored

POOL, K, DIMENSION = 100, 10, 32
_REGULARISATION = 200.0
_DEFAULT = RerankConfig().strength
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class DiversityReport:
    """`dial`: positions between relevance alone and diversity alone."""

    data: Path
    work: Path
    out: Path
    protocol: Protocol = Protocol.TEMPORAL
    dial: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
    cases: int = 2_000
    seed: int = 0

    @classmethod
    def quick(cls, data: Path, work: Path, out: Path, seed: int) -> "DiversityReport":
        return cls(data, work, out, dial=(_DEFAULT, 0.7), cases=200, seed=seed)


def report(config: DiversityReport) -> Result:
    """Figures named `<objective>_<dial>_<metric>`; the plot `diversity.svg` in `out`."""
    split = read_split(
        RecallEvaluation(data=config.data, protocol=config.protocol, work=config.work, seed=config.seed)
    )
    cases = split.test.sample(config.cases, config.seed)
    rows, scores = _pools(split, cases)
    vectors = _vectors(split)
    categories = _category_vectors(split.items)
    figures: dict[str, float] = {"cases": float(len(cases))}
    for name, objective, dial in _positions(config):
        lists = np.array(
            [_list(objective, dial, s, vectors[r], r) for r, s in zip(rows, scores, strict=True)]
        )
        measured = _measure(lists, np.concatenate(cases.targets), vectors, categories)
        figures |= {f"{name}_{metric}": value for metric, value in measured.items()}
    _plot(figures, config)
    figures["default_ndcg_kept"] = figures[f"mmr_{_DEFAULT}_ndcg10"] / max(figures["none_ndcg10"], 1e-9)
    figures["default_distance_gained"] = figures[f"mmr_{_DEFAULT}_distance"] / figures["none_distance"] - 1
    return Result("report diversity", config.seed, figures, {"default_distance_gained": Goal(">", 0)})


def _positions(config: DiversityReport) -> Iterator[tuple[str, Diversity, float]]:
    yield "none", Diversity.NONE, 0.0
    for objective in (Diversity.MMR, Diversity.DPP):
        for dial in config.dial:
            yield f"{objective}_{dial}", objective, dial


def _pools(split: Split, cases: Cases) -> tuple[NDArray[np.int64], Floats]:
    """(n, POOL) item rows and scores per case, the best first."""
    scorer = ease(_REGULARISATION)(TrainingHistories(split.refit, len(split.items)))
    size = min(POOL, len(split.items))
    rows, found = np.zeros((len(cases), size), np.int64), np.zeros((len(cases), size), np.float32)
    for places, scores in scored(scorer, cases, len(split.items)):
        best = np.argsort(-scores, axis=1, kind="stable")[:, :size]
        rows[places], found[places] = best, np.take_along_axis(scores, best, axis=1)
    return rows, np.where(np.isfinite(found), found, found[np.isfinite(found)].min())


def _vectors(split: Split) -> Floats:
    """(n_items, DIMENSION) of length 1, by the users who had the item."""
    seen = interactions(split.refit, len(split.items)).astype(np.float64)
    # each event of a user with many weighs less
    seen = seen.multiply(1 / np.sqrt(np.maximum(seen.sum(1), 1))).tocsr()
    dimension = min(DIMENSION, min(seen.shape) - 1)
    _, values, items = svds(seen, k=dimension, v0=np.ones(min(seen.shape)))
    return unit((items.T * values).astype(np.float32))


def _category_vectors(items: Sequence[Item]) -> Floats:
    """(n_items, categories) of length 1: nonzero where the item has the category."""
    names = {name: i for i, name in enumerate(sorted({c for item in items for c in item.categories}))}
    table = np.zeros((len(items), max(len(names), 1)), np.float32)
    for row, item in enumerate(items):
        table[row, [names[c] for c in item.categories]] = 1
    return unit(table)


def _list(
    kind: Diversity, dial: float, scores: Floats, vectors: Floats, rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    relevance = scaled(scores)
    objective: Objective
    if kind is Diversity.NONE:
        objective = Relevance(relevance)
    elif kind is Diversity.MMR:
        objective = MaximalMarginalRelevance(relevance, vectors, dial)
    else:
        objective = DeterminantalPointProcess(relevance, vectors, dial)
    return rows[list(greedy(objective, len(rows), range(min(K, len(rows)))).values())]


def _measure(
    lists: NDArray[np.int64], targets: NDArray[np.int64], vectors: Floats, categories: Floats
) -> dict[str, float]:
    hit = lists == targets[:, None]
    gain = (hit / np.log2(np.arange(2, lists.shape[1] + 2))).sum(axis=1)
    return {
        "ndcg10": float(gain.mean()),
        "hr10": float(hit.any(axis=1).mean()),
        "distance": intra_list_diversity(lists, vectors),
        "category_distance": intra_list_diversity(lists, categories),
        "coverage10": coverage(lists, len(vectors)),
    }


def _plot(figures: dict[str, float], config: DiversityReport) -> None:
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for axes, metric, label in zip(
        panels, ("distance", "category_distance"), ("cosine of vectors", "categories"), strict=True
    ):
        for objective, colour in (("mmr", "C0"), ("dpp", "C1")):
            names = ["none", *(f"{objective}_{dial}" for dial in config.dial)]
            x, y = ([figures[f"{name}_{m}"] for name in names] for m in (metric, "ndcg10"))
            axes.plot(x, y, marker="o", color=colour, label=objective.upper())
            for dial, at_x, at_y in zip(config.dial, x[1:], y[1:], strict=True):
                axes.annotate(f"{dial}", (at_x, at_y), textcoords="offset points", xytext=(4, 4), fontsize=7)
        axes.set(xlabel=f"distance within a list ({label})", ylabel="NDCG@10")
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    save(figure, config.out / "diversity.svg")
