"""`recsys train`: the two-tower, the ranker, or both and a published bundle."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from infra.terminal import JsonFlag, QuickFlag, console, print_mapping
from recsys.bundle import Bundle
from recsys.datasets.catalogue import users_path
from recsys.features.definitions import FEATURES
from recsys.models.two_tower import TwoTowerShape
from recsys.settings import Settings
from training import publish
from training.choices import FULL_EVERY
from training.nightly.ranker import NIGHT, RankerUpdate
from training.nightly.update import nights_since_full, update_ranker, update_two_tower
from training.publish import PublishConfig
from training.ranker import train as train_ranker
from training.ranker.clean import Cleaning
from training.ranker.loop import LoopConfig
from training.ranker.train import RankerTraining
from training.two_tower import export as export_two_tower
from training.two_tower import train as train_two_tower
from training.two_tower.config import TwoTowerConfig

app = typer.Typer(no_args_is_help=True, help="Train both models on the lake's features.")

Seed = Annotated[int, typer.Option(min=0, help="The same seed and data give the same model.")]
Epochs = Annotated[int, typer.Option(min=1, help="At most; training stops early.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Forget checkpoints of an interrupted run.")]
Compress = Annotated[
    bool,
    typer.Option("--compress", help="Distil, prune and quantize; serve the smallest variant that passes."),
]
Robust = Annotated[float, typer.Option(min=0, help="Train against attacks of this size on embeddings.")]
Cleaned = Annotated[bool, typer.Option("--clean", help="Leave bots and repeated rows out of training.")]
RECALL_EPOCHS = 20
RANK_EPOCHS = 4


@app.command()
def recall(
    seed: Seed = 0, epochs: Epochs = RECALL_EPOCHS, fresh: Fresh = False, as_json: JsonFlag = False
) -> None:
    """Train the two-tower into <home>/work/two_tower. An interrupted run goes on where it was.

    Example: recsys train recall --epochs 10
    """
    print_mapping("two-tower, validation", _recall(Settings(), seed, epochs, fresh), as_json)


@app.command()
def rank(
    seed: Seed = 0,
    epochs: Epochs = RANK_EPOCHS,
    compress: Compress = False,
    robust: Robust = 0.0,
    cleaned: Cleaned = False,
    fresh: Fresh = False,
    as_json: JsonFlag = False,
) -> None:
    """Train the ranker into <home>/work/ranker. An interrupted run goes on where it was.

    Example: recsys train rank --seed 1
    """
    options = RankOptions(seed, epochs, compress, robust, cleaned)
    print_mapping("ranker", _rank(Settings(), options, fresh), as_json)


@app.command("all")
def all_(
    seed: Seed = 0,
    recall_epochs: Epochs = RECALL_EPOCHS,
    rank_epochs: Epochs = RANK_EPOCHS,
    compress: Compress = False,
    fresh: Fresh = False,
    as_json: JsonFlag = False,
) -> None:
    """Train both models, build the index, publish the bundle. A running API swaps it in by itself.

    Example: recsys train all
    """
    settings = Settings()
    metrics: dict[str, object] = {
        f"recall {name}": value for name, value in _recall(settings, seed, recall_epochs, fresh).items()
    }
    options = RankOptions(seed, rank_epochs, compress)
    metrics |= {f"rank {name}": value for name, value in _rank(settings, options, fresh).items()}
    bundle = _publish(settings)
    print_mapping("published", {"version": bundle.manifest.version, **metrics}, as_json)
    console.print("next: `recsys serve`, or `recsys bundle inspect`")


@app.command()
def nightly(
    full_every: Annotated[
        int, typer.Option(min=1, help="Train in full when the last time is so many nights ago; 1: always.")
    ] = FULL_EVERY,
    full: Annotated[bool, typer.Option("--full", help="Train in full tonight.")] = False,
    seed: Seed = 0,
    as_json: JsonFlag = False,
) -> None:
    """Let both models go on from yesterday's weights with what is new since, and publish the bundle.

    Run it after `recsys features build`. In full (as `recsys train all --compress`) the first time and each
    `--full-every` nights; a night in between reads the new days alone.

    Example: recsys train nightly
    """
    settings = Settings()
    towers, ranker = _work(settings, "two_tower"), _work(settings, "ranker")
    if full or nights_since_full(towers, ranker) + 1 >= full_every:
        _recall(settings, seed, RECALL_EPOCHS, False)
        figures = _rank(settings, RankOptions(seed, RANK_EPOCHS, compress=True), False)
    else:
        update_two_tower(_two_tower(settings, seed, 1), towers)
        report = update_ranker(
            RankerUpdate(
                n_features=FEATURES.dimension,
                examples=settings.features / "examples",
                items=settings.lake / "items" / "items.parquet",
                work=ranker,
                out=ranker.with_name("ranker.new"),
                loop=replace(NIGHT, seed=seed),
            ),
        )
        figures = {
            "examples": report.examples,
            "score before": report.score_before,
            "score after": report.score_after,
            **report.metrics,
        }
        if not report.learnt:
            console.print("the ranker would have become worse by the new examples: yesterday's stays")
    bundle = _publish(settings)
    print_mapping("published", {"version": bundle.manifest.version, **figures}, as_json)


@app.command()
def ladder(
    seed: Seed = 0,
    lake: Annotated[
        bool, typer.Option("--lake", help="The lake's examples instead of synthetic ids.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Of the teacher, with --lake.")] = RANK_EPOCHS,
    student: Annotated[Path | None, typer.Option(help="Shape from `recsys tune rank`.")] = None,
    fresh: Fresh = False,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Teacher → student → pruned → INT8 at the case study's size (synthetic ids), into <home>/work/ladder.

    Interrupted, it goes on with the step it was at. Then: `recsys report ladder`, `recsys bench rank`.

    Example: recsys train ladder
    """
    from training.compression.configs import ladder_folder, ladder_setup
    from training.compression.ladder import main
    from training.compression.variants import served

    settings = Settings()
    _forget(fresh, ladder_folder(settings, lake, quick))
    variants = main(*ladder_setup(settings, lake, quick, seed, epochs, student), report=console.print)
    print_mapping("compression ladder", {r.name: f"{r.bytes / 1e6:.2f} MB" for r in variants}, as_json)
    console.print(f"served: {served(variants).name}")


def _recall(settings: Settings, seed: int, epochs: int, fresh: bool) -> dict[str, float]:
    config = _two_tower(settings, seed, epochs)
    _forget(fresh, config.work)
    result = train_two_tower.main(config)
    export_two_tower.main(result, _work(settings, "two_tower"))
    _forget(True, config.work)  # done: the next run trains on the next data from the start
    return result.validation


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


def _publish(settings: Settings) -> Bundle:
    return publish.main(
        PublishConfig(
            lake=settings.lake,
            two_tower=_work(settings, "two_tower"),
            ranker=_work(settings, "ranker"),
            bundles=settings.bundles,
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


def _rank(settings: Settings, options: RankOptions, fresh: bool) -> dict[str, object]:
    if options.compress:
        return _compressed(settings, options, fresh)
    checkpoints = settings.checkpoints / "ranker"
    _forget(fresh, checkpoints)
    config = RankerTraining(
        n_features=FEATURES.dimension,
        examples=settings.features / "examples",
        items=settings.lake / "items" / "items.parquet",
        out=_work(settings, "ranker"),
        checkpoints=checkpoints,
        loop=LoopConfig(epochs=options.epochs, seed=options.seed, attack=options.robust),
        cleaning=Cleaning() if options.cleaned else None,
    )
    with _epochs_bar("ranker", options.epochs) as (bars, bar):
        report = train_ranker.main(config, lambda epoch, score: bars.update(bar, completed=epoch))
    _forget(True, checkpoints)
    return {**report.metrics, **{f"left out: {reason}": n for reason, n in report.removed.items()}}


def _compressed(settings: Settings, options: RankOptions, fresh: bool) -> dict[str, object]:
    """The lake's own ladder, as far as int8 needs it. The smallest variant that passed becomes <home>/work/ranker; the
    teacher when none did."""
    from training.compression.configs import ladder_folder, ladder_setup
    from training.compression.ladder import main
    from training.compression.variants import candidate, take

    folder = ladder_folder(settings, lake=True)
    _forget(fresh, folder)
    config, given = ladder_setup(settings, True, False, options.seed, options.epochs)
    variants = main(replace(config, compared=False), given, report=console.print)
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


@contextmanager
def _epochs_bar(what: str, epochs: int) -> Iterator[tuple[Progress, TaskID]]:
    columns = (TextColumn(what), BarColumn(), TextColumn("epoch {task.completed}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        yield bars, bars.add_task(what, total=epochs)


def _work(settings: Settings, model: str) -> Path:
    return settings.home / "work" / model


def _forget(fresh: bool, checkpoints: Path) -> None:
    if fresh:
        shutil.rmtree(checkpoints, ignore_errors=True)
