"""`recsys train`: the two-tower, the ranker, or both and a published bundle."""

import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from infra.cli.logs import job_log
from infra.cli.options import refuse
from infra.terminal import JsonFlag, QuickFlag, console, print_mapping
from recsys.settings import Settings
from training.choices import FULL_EVERY, RANK_EPOCHS, RECALL_EPOCHS

app = typer.Typer(no_args_is_help=True, help="Train both models on the lake's features.")

Seed = Annotated[int, typer.Option(min=0, help="The same seed and data give the same model.")]
Epochs = Annotated[int, typer.Option(min=1, help="Largest number of epochs; training stops early.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Discard the checkpoints of an interrupted run.")]
Compress = Annotated[
    bool, typer.Option("--compress", help="Distil, prune, quantize; serve the best passing variant.")
]
Robust = Annotated[
    float, typer.Option(min=0, help="Adversarial training: size of the attack on embeddings; 0: none.")
]
Cleaned = Annotated[
    bool, typer.Option("--clean", help="Remove bots and repeated rows from the training rows.")
]


@app.command()
def recall(
    seed: Seed = 0, epochs: Epochs = RECALL_EPOCHS, fresh: Fresh = False, as_json: JsonFlag = False
) -> None:
    """Train the two-tower into <home>/work/two_tower. An interrupted run continues where it stopped.

    Example: recsys train recall --epochs 10
    """
    from infra.cli.training_runs import train_recall

    with _log():
        metrics = train_recall(Settings(), seed, epochs, fresh)
    print_mapping("two-tower, validation", metrics, as_json)


@app.command()
def rank(
    ctx: typer.Context,
    seed: Seed = 0,
    epochs: Epochs = RANK_EPOCHS,
    compress: Compress = False,
    robust: Robust = 0.0,
    cleaned: Cleaned = False,
    fresh: Fresh = False,
    as_json: JsonFlag = False,
) -> None:
    """Train the ranker into <home>/work/ranker. An interrupted run continues where it stopped.

    Example: recsys train rank --seed 1
    """
    refuse(
        ctx,
        compress,
        ("robust", "cleaned"),
        "the ladder of --compress trains without it; leave it, or --compress",
    )
    from infra.cli.training_runs import RankOptions, train_rank

    options = RankOptions(seed, epochs, compress, robust, cleaned)
    with _log():
        metrics = train_rank(Settings(), options, fresh)
    print_mapping("ranker", metrics, as_json)


@app.command("all")
def all_(
    ctx: typer.Context,
    seed: Seed = 0,
    recall_epochs: Epochs = RECALL_EPOCHS,
    rank_epochs: Epochs = RANK_EPOCHS,
    compress: Compress = False,
    fresh: Fresh = False,
    first: Annotated[
        bool,
        typer.Option("--first", help="In about half a minute, from the newest events; then train in full."),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train both models, build the index, publish the bundle. A running API loads it without a restart.

    Example: recsys train all
    """
    full = ("recall_epochs", "rank_epochs", "compress", "fresh")
    refuse(ctx, first, full, "--first has its own; leave it, or --first")
    from infra.cli.training_runs import RankOptions, publish_bundle, train_first, train_rank, train_recall

    settings, recall = Settings(), dict[str, float]()
    with _log():
        if first:
            rank = train_first(settings, seed)
        else:
            recall = train_recall(settings, seed, recall_epochs, fresh)
            rank = train_rank(settings, RankOptions(seed, rank_epochs, compress), fresh)
        bundle = publish_bundle(settings)
    metrics: dict[str, object] = {f"recall {name}": value for name, value in recall.items()}
    metrics |= {f"rank {name}": value for name, value in rank.items()}
    print_mapping("published", {"version": bundle.manifest.version, **metrics}, as_json)
    console.print("next: `recsys serve`, or `recsys bundle inspect`")


@app.command()
def nightly(
    ctx: typer.Context,
    full_every: Annotated[
        int, typer.Option(min=1, help="Nights between two full trainings; 1: always train in full.")
    ] = FULL_EVERY,
    full: Annotated[bool, typer.Option("--full", help="Train in full now.")] = False,
    seed: Seed = 0,
    as_json: JsonFlag = False,
) -> None:
    """Continue both models from yesterday's weights with the new data, and publish the bundle.

    Run it after `recsys features build`. The first time and every `--full-every` nights it trains in full, as
    `recsys train all --compress` does; a night in between reads only the new days.

    Example: recsys train nightly
    """
    refuse(ctx, full, ["full_every"], "--full trains in full tonight in any case")
    from infra.cli.training_runs import train_nightly

    with _log():
        published = train_nightly(Settings(), seed, full, full_every)
    print_mapping("published", published, as_json)


@app.command()
def ladder(
    ctx: typer.Context,
    seed: Seed = 0,
    lake: Annotated[
        bool, typer.Option("--lake", help="Use the lake's examples instead of synthetic ids.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the teacher, with --lake.")] = RANK_EPOCHS,
    student: Annotated[
        Path | None, typer.Option(help="Shape of the student, from `recsys tune rank`.")
    ] = None,
    fresh: Fresh = False,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Teacher → student → pruned → INT8 at the case study's size (synthetic ids), into <home>/work/ladder.

    An interrupted run continues with the step it had reached. Next: `recsys report ladder`, `recsys bench rank`.

    Example: recsys train ladder
    """
    refuse(ctx, not lake, ["epochs"], "the synthetic ladder has its own; add --lake")
    refuse(ctx, lake, ["quick"], "the lake's ladder has one size; leave it, or --lake")
    from training.compression.configs import ladder_folder, ladder_setup
    from training.compression.ladder import main
    from training.compression.variants import served

    settings = Settings()
    if fresh:
        shutil.rmtree(ladder_folder(settings, lake, quick), ignore_errors=True)
    with _log():
        variants = main(*ladder_setup(settings, lake, quick, seed, epochs, student), report=console.print)
    print_mapping("compression ladder", {r.name: f"{r.bytes / 1e6:.2f} MB" for r in variants}, as_json)
    console.print(f"served: {served(variants).name}")


def _log() -> AbstractContextManager[None]:
    return job_log(Settings().home / "logs" / "train.log")
