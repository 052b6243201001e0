"""`recsys report diversity`: the dial trades relevance for distance, on data whose future is planted."""

from pathlib import Path

import numpy as np
import pytest

from infra.evaluation.reports import diversity
from infra.evaluation.reports.diversity import DiversityReport, report
from recsys.contracts.types import Item
from training.evaluation.protocols import Split
from training.two_tower.retrieval import Cases
from training.two_tower.sequences import History

GROUPS, EACH = 6, 12  # of items that the same users like


def planted(seed: int = 0) -> Split:
    """Each user likes one group; the next item is of that group."""
    rng = np.random.default_rng(seed)
    items = [Item(f"i{i:03}", categories=(f"c{i // EACH}",)) for i in range(GROUPS * EACH)]
    histories, asked, targets = [], [], []
    for user in range(120):
        own = rng.permutation(EACH) + EACH * (user % GROUPS) + 1
        other = rng.integers(1, GROUPS * EACH + 1, 2)  # so that the groups know of each other
        numbers = np.unique(np.append(own[:6], other))
        histories.append(
            History(f"u{user}", numbers, np.full(len(numbers), 2), np.arange(1, len(numbers) + 1))
        )
        asked.append(histories[-1])
        targets.append(np.array([next(n for n in own[6:] if n not in numbers) - 1]))
    cases = Cases(asked, targets, [10_000] * len(asked))
    return Split(items, histories, cases, histories, cases)


def test_more_diversity_means_more_distance_and_less_relevance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diversity, "read_split", lambda evaluation: planted())
    result = report(DiversityReport(tmp_path, tmp_path, tmp_path / "out", dial=(0.3, 0.9), cases=100))
    figures = result.figures
    assert result.met
    for objective in ("mmr", "dpp"):
        assert (
            figures["none_distance"]
            < figures[f"{objective}_0.3_distance"]
            < figures[f"{objective}_0.9_distance"]
        )
        assert figures["none_category_distance"] < figures[f"{objective}_0.9_category_distance"]
        assert figures[f"{objective}_0.9_ndcg10"] < figures["none_ndcg10"]
    assert figures["default_ndcg_kept"] <= 1
    assert (tmp_path / "out" / "diversity.svg").stat().st_size > 10_000
