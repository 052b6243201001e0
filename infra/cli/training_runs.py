"""What `recsys train` runs: each model's training with its options, and publishing."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from infra.terminal import console, epochs_bar
from recsys.bundle import Bundle
from recsys.datasets.catalogue import users_path
from recsys.features.definitions import FEATURES
from recsys.lake.lake import count_rows, days, newest_days, start_of
from recsys.models.two_tower import TwoTowerShape
from recsys.settings import Settings
from training import publish
from training.choices import FIRST_EPOCHS, FIRST_EVENTS, FIRST_EXAMPLES, RANK_EPOCHS, RECALL_EPOCHS
from training.compression.configs import ladder_folder, ladder_setup
from training.compression.ladder import main
from training.compression.variants import candidate, take
from training.nightly.ranker import NIGHT, RankerUpdate
from training.nightly.update import nights_since_full, update_ranker, update_two_tower
from training.publish import PublishConfig
from training.ranker import train as train_ranker
from training.ranker.clean import Cleaning
from training.ranker.loop import LoopConfig
from training.ranker.train import RankerTraining
from training.two_tower import export as export_two_tower
from training.two_tower import train as train_two_tower
from training.two_tower.config import TwoTowerConfig, Validation
from training.warm_start import WARM_START


def train_nightly(settings: Settings, seed: int, full: bool, full_every: int) -> dict[str, object]:
    """Update both models with the new days, or train in full, and publish; returns version and figures."""
    towers, ranker = _work(settings, "two_tower"), _work(settings, "ranker")
    if full or nights_since_full(towers, ranker) + 1 >= full_every:
        train_recall(settings, seed, RECALL_EPOCHS, False)
        figures = train_rank(settings, RankOptions(seed, RANK_EPOCHS, compress=True), False)
    else:
        with epochs_bar("two-tower") as progress:
            update_two_tower(_two_tower(settings, seed, 1), towers, progress)
        report = update_ranker(
            RankerUpdate(
                n_features=FEATURES.dimension,
                examples=settings.features / "examples",
                items=settings.lake / "items" / "items.parquet",
                work=ranker,
                out=ranker.with_name("ranker.new"),
                loop=NIGHT.replace(seed=seed),
            )
        )
        figures = {
            "examples": report.examples,
            "score before": report.score_before,
            "score after": report.score_after,
            **report.metrics,
        }
        if not report.learnt:
            console.print("the ranker would have become worse by the new examples: yesterday's stays")
    return {"version": publish_bundle(settings).manifest.version, **figures}


def train_recall(settings: Settings, seed: int, epochs: int, fresh: bool) -> dict[str, float]:
    config = _two_tower(settings, seed, epochs)
    _forget(fresh, config.work)
    with epochs_bar("two-tower") as progress:
        result = train_two_tower.main(config, progress)
    export_two_tower.main(result, _work(settings, "two_tower"))
    _forget(True, config.work)  # done: the next run trains on the next data from the start
    return result.validation


def train_first(settings: Settings, seed: int) -> dict[str, object]:
    """Both models from the newest events, in about half a minute on two cores, whatever the lake holds."""
    towers = _two_tower(settings, seed, FIRST_EPOCHS).replace(
        work=settings.checkpoints / "first",
        validation=Validation.NONE,
        newer_than_ms=newer_than_ms(settings.lake, FIRST_EVENTS),
    )
    _forget(True, towers.work)
    with epochs_bar("two-tower") as progress:
        export_two_tower.main(train_two_tower.main(towers, progress), _work(settings, "two_tower"))
    ranker = _ranker(settings, RankOptions(seed, epochs=1)).replace(
        checkpoints=towers.work, newest=FIRST_EXAMPLES, taste=False
    )
    with epochs_bar("ranker") as progress:
        report = train_ranker.main(ranker, lambda epoch, score: progress("fit", epoch, 1))
    _forget(True, towers.work)
    for model in ("two_tower", "ranker"):  # the next night trains in full
        (_work(settings, model) / WARM_START).unlink()
    return {**report.metrics}


def newer_than_ms(lake: Path, events: int) -> int:
    """The midnight before the newest days that have this many events together; 0: the lake has no more."""
    rows = {day: count_rows(lake, first_day=day, last_day=day) for day in days(lake)}
    newest = newest_days(rows, events)
    return 0 if len(newest) == len(rows) else start_of(newest[0]) - 1


def _two_tower(settings: Settings, seed: int, epochs: int) -> TwoTowerConfig:
    users = users_path(settings.lake)
    return TwoTowerConfig(
        sequences=settings.features / "sequences",
        items=settings.lake / "items" / "items.parquet",
        users=users if users.exists() else None,
        shape=TwoTowerShape(profile=users.exists()),
        work=settings.checkpoints / "two_tower",
        seed=seed,
        epochs=epochs,
    )


def publish_bundle(settings: Settings) -> Bundle:
    return publish.main(
        PublishConfig(
            lake=settings.lake,
            two_tower=_work(settings, "two_tower"),
            ranker=_work(settings, "ranker"),
            bundles=settings.bundles,
            signing_key=settings.bundle_signing_key,
            keys=settings.bundle_keys,
        )
    )


@dataclass(frozen=True)
class RankOptions:
    """How `recsys train rank` trains."""

    seed: int
    epochs: int
    compress: bool = False
    robust: float = 0.0
    cleaned: bool = False


def train_rank(settings: Settings, options: RankOptions, fresh: bool) -> dict[str, object]:
    if options.compress:
        return _compressed(settings, options, fresh)
    config = _ranker(settings, options)
    _forget(fresh, config.checkpoints)
    with epochs_bar("ranker") as progress:
        report = train_ranker.main(config, lambda epoch, score: progress("fit", epoch, options.epochs))
    _forget(True, config.checkpoints)
    return {**report.metrics, **{f"left out: {reason}": n for reason, n in report.removed.items()}}


def _ranker(settings: Settings, options: RankOptions) -> RankerTraining:
    return RankerTraining(
        n_features=FEATURES.dimension,
        examples=settings.features / "examples",
        items=settings.lake / "items" / "items.parquet",
        out=_work(settings, "ranker"),
        checkpoints=settings.checkpoints / "ranker",
        loop=LoopConfig(epochs=options.epochs, seed=options.seed, attack=options.robust),
        cleaning=Cleaning() if options.cleaned else None,
    )


def _compressed(settings: Settings, options: RankOptions, fresh: bool) -> dict[str, object]:
    """The lake's own ladder, without variants for comparison. The chosen one becomes <home>/work/ranker, the
    teacher if none passed."""
    folder = ladder_folder(settings, lake=True)
    _forget(fresh, folder)
    config, given = ladder_setup(settings, True, False, options.seed, options.epochs)
    variants = main(config.replace(compared=False), given, report=console.print)
    chosen = candidate(variants)
    if chosen.reasons:
        console.print(
            f"no smaller variant passed its gate, the teacher is served; {chosen.name}: {chosen.reasons}"
        )
        chosen = variants[0]
    take(folder / chosen.name, _work(settings, "ranker"))
    assert given.warm_start is not None  # noqa: S101 - of the lake's examples
    given.warm_start.write(_work(settings, "ranker"))
    return {"variant": chosen.name, "mb": chosen.bytes / 1e6, **chosen.metrics}


def _work(settings: Settings, model: str) -> Path:
    return settings.home / "work" / model


def _forget(fresh: bool, checkpoints: Path) -> None:
    if fresh:
        shutil.rmtree(checkpoints, ignore_errors=True)
