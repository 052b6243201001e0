"""The figures of several models over several seeds."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Scores = Mapping[str, Floats]  # log odds of the test rows, by head


class Scoreboard:
    """Judges each run of a model and remembers what it scored."""

    def __init__(self, judge: Callable[[Scores], dict[str, float]], report: Callable[[str], None]) -> None:
        """
        Args:
            judge: a model's scores → its figures by name.
            report: receives one line per run.
        """
        self._judge, self._report = judge, report
        self._judged: dict[str, list[dict[str, float]]] = {}
        self._scores: dict[str, list[Scores]] = {}

    @property
    def models(self) -> list[str]:
        return list(self._scores)

    def add(self, seed: int, name: str, logits: Scores) -> None:
        found = self._judge(logits)
        self._judged.setdefault(name, []).append(found)
        self._scores.setdefault(name, []).append(logits)
        self._report(f"seed {seed} {name}: " + ", ".join(f"{k} {v:.4f}" for k, v in found.items()))

    def runs(self, name: str) -> list[Scores]:
        """What the model scored, one entry per seed."""
        return self._scores[name]

    def means(self) -> dict[str, float]:
        """`<model>_<figure>` over the seeds, with its standard deviation where there are several."""
        found: dict[str, float] = {}
        for name, runs in self._judged.items():
            for figure in runs[0]:
                values = [run[figure] for run in runs]
                found[f"{name}_{figure}"] = float(np.mean(values))
                if len(values) > 1:
                    found[f"{name}_{figure}_sd"] = float(np.std(values, ddof=1))
        return found


def sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


def logit(p: Floats) -> Floats:
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return np.asarray(np.log(p) - np.log1p(-p))
