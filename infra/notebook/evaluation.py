"""How good is recall? Each user's last item is held out and ranked among the full catalogue, by three models."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from infra.notebook.fitting import PATHS, own_threads, train_recall, two_tower_config
from infra.notebook.progress import Show
from recsys.contracts.errors import InvalidConfig, InvalidData
from training.evaluation.baselines import TrainingHistories, item_knn, popularity
from training.evaluation.measure import LIST_LENGTH, measure
from training.evaluation.sources import lake_log
from training.two_tower.repeats import BeforeLast
from training.two_tower.retrieval import cases_after

_OTHERS = {*PATHS, "newer_than_ms"}  # the whole log is trained on
_FIGURES = {"hr10": "hr@10", "ndcg10": "ndcg@10", "mrr": "mrr", "hr50": "hr@50", "coverage10": "coverage@10"}


def last_item(
    home: Path, settings: Mapping[str, Any], repeats: bool, max_cases: int, seed: int, show: Show
) -> list[dict[str, Any]]:
    """One row of figures for each model. The two-tower is trained again, without the held-out items.

    Args:
        settings: of the two-tower, as trained; its paths are replaced.
        repeats: whether an item that the user has may be the last one, and is ranked.
        max_cases: more are sampled.

    Raises:
        InvalidConfig: the bundle's two-tower continued from earlier weights, which knew the items that are held out.
        InvalidData: the catalogue is no longer than a list, or nobody's last item is new to them.
    """
    if settings.get("start"):
        raise InvalidConfig(
            "this bundle continued from earlier weights in a night; train in full to evaluate it: `recsys train all`"
        )
    log = lake_log(home / "lake")
    items = log.items
    if len(items) <= LIST_LENGTH:
        raise InvalidData(f"{len(items)} items: every list of {LIST_LENGTH} has all of them; more are needed")
    histories, cut = [h for h in log.histories if len(h.numbers) > 1], BeforeLast(repeats)
    train = [h.before(cut(h)) for h in histories]
    cases = cases_after(histories, cut, repeats=repeats).sample(max_cases, seed)
    if not len(cases):
        raise InvalidData("nobody has two or more events whose last item is new to them: nothing to hold out")
    fitted = TrainingHistories(train, len(items))
    with tempfile.TemporaryDirectory(prefix="recsys-") as folder:
        work = Path(folder)
        (work / "lake").symlink_to((home / "lake").resolve())
        config = two_tower_config(work, {name: settings[name] for name in settings if name not in _OTHERS})
        with own_threads():
            trained = train_recall(train, config, None, show)
        scorers = {
            "two_tower": trained.scorer(),
            "item_knn": item_knn(100, 10.0)(fitted),
            "popularity": popularity(fitted),
        }
        seen = np.asarray(fitted.seen.sum(0), np.float64).ravel()
        rows = []
        for done, (name, scorer) in enumerate(scorers.items()):
            show("rank the held-out items", done, len(scorers))
            found = measure(scorer, cases, seen).figures({})
            figures = {title: float(found[figure]) for figure, title in _FIGURES.items()}
            rows.append({"model": name, **figures, "cases": len(cases)})
    return rows
