"""`recsys train`: the two-tower, the ranker, or both and a published bundle."""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from infra.cli.logs import job_log
from infra.cli.options import given_settings, refuse
from infra.cli.training_options import Changes, ConfigFile, ShowConfig, TrainingOptions
from infra.terminal import JsonFlag, QuickFlag, console, print_mapping
from recsys.settings import Settings
from training.choices import (
    FEDERATED_ROUNDS,
    FULL_EVERY,
    LEAST_FIRST_MINUTES,
    PRIVATE_EPOCHS,
    PRIVATE_TWO_TOWER_EPOCHS,
    RANK_EPOCHS,
    PrivateModel,
    first_sizes,
)

app = typer.Typer(no_args_is_help=True, help="Train both models on the lake's features.")

Seed = Annotated[int, typer.Option(min=0, help="The same seed and data give the same model.")]
Epochs = Annotated[int, typer.Option(min=1, help="Largest number of epochs; training stops early.")]
RecallEpochs = Annotated[
    int | None,
    typer.Option(
        min=1, show_default="by the data's size", help="Largest number of epochs; training stops early."
    ),
]
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
Propose = Annotated[
    bool | None,
    typer.Option(
        "--propose/--publish",
        show_default="propose where bundles are released and one serves, else publish",
        help="Propose the bundle to `recsys release`, or let it serve at once.",
    ),
]


@app.command()
def recall(
    ctx: typer.Context,
    seed: Seed = 0,
    epochs: RecallEpochs = None,
    file: ConfigFile = None,
    changes: Changes = None,
    show: ShowConfig = False,
    fresh: Fresh = False,
    as_json: JsonFlag = False,
) -> None:
    """Train the two-tower into <home>/work/two_tower. An interrupted run continues where it stopped.

    Example: recsys train recall --set shape.dim=128 --set epochs=12
    """
    from infra.cli.training_plans import RECALL_OPTIONS, recall_plan
    from infra.cli.training_runs import train_recall

    settings = Settings()
    plan = recall_plan(settings, seed, epochs, given_settings(ctx, RECALL_OPTIONS))
    config = TrainingOptions(file, changes or (), show).of(plan)
    with _log():
        metrics = train_recall(settings, config, fresh)
    print_mapping("two-tower, validation", metrics, as_json)


@app.command()
def federated(
    ctx: typer.Context,
    seed: Seed = 0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of training.")] = FEDERATED_ROUNDS,
    file: ConfigFile = None,
    changes: Changes = None,
    show: ShowConfig = False,
    fresh: Fresh = False,
    propose: Propose = None,
    as_json: JsonFlag = False,
) -> None:
    """Train the two-tower's item vectors in rounds over simulated devices, one per user, into <home>/work/two_tower.

    The server sees sums of small random projections only. Where `recsys train rank` has left a ranker, which is not
    federated, the bundle is published, or proposed where bundles are released. An interrupted run continues where it
    stopped.

    Example: recsys train federated --set cohorts.rate=0.5
    """
    from infra.cli.training_plans import FEDERATED_OPTIONS, federated_plan
    from infra.cli.training_runs import has_ranker, proposes, publish_bundle, train_federated

    settings = Settings()
    plan = federated_plan(settings, seed, rounds, given_settings(ctx, FEDERATED_OPTIONS))
    config = TrainingOptions(file, changes or (), show).of(plan)
    refuse(ctx, not has_ranker(settings), ["propose"], "a bundle needs a ranker; first `recsys train rank`")
    proposing = proposes(settings) if propose is None else propose
    with _log():
        done = train_federated(settings, config, fresh)
        if has_ranker(settings):
            done["version"] = publish_bundle(settings, proposing).manifest.version
    published = _done(proposing) if "version" in done else "federated two-tower"
    print_mapping(published, done, as_json)
    if "version" not in done:
        console.print("next: `recsys train rank`, then `recsys train federated`, which publishes both")
    elif not proposing:
        console.print("next: `recsys serve`, or `recsys bundle inspect`")


@app.command()
def rank(
    ctx: typer.Context,
    seed: Seed = 0,
    epochs: Epochs = RANK_EPOCHS,
    compress: Compress = False,
    robust: Robust = 0.0,
    cleaned: Cleaned = False,
    file: ConfigFile = None,
    changes: Changes = None,
    show: ShowConfig = False,
    fresh: Fresh = False,
    as_json: JsonFlag = False,
) -> None:
    """Train the ranker into <home>/work/ranker. An interrupted run continues where it stopped.

    Example: recsys train rank --seed 1
    """
    refuse(
        ctx,
        compress,
        ("cleaned",),
        "the ladder of --compress trains without it; leave it, or --compress",
    )
    from infra.cli.training_plans import LADDER_OPTIONS, RANK_OPTIONS, ladder_plan, rank_plan
    from infra.cli.training_runs import train_compressed, train_rank

    settings, options = Settings(), TrainingOptions(file, changes or (), show)
    train: Callable[[], dict[str, object]]
    if compress:
        ladder = options.of(ladder_plan(settings, seed, epochs, given_settings(ctx, LADDER_OPTIONS), robust))
        train = partial(train_compressed, settings, ladder, fresh)
    else:
        given = given_settings(ctx, RANK_OPTIONS)
        config = options.of(rank_plan(settings, seed, epochs, given, robust, cleaned))
        train = partial(train_rank, settings, config, fresh)
    with _log():
        metrics = train()
    print_mapping("ranker", metrics, as_json)


@app.command()
def private(
    ctx: typer.Context,
    model: Annotated[
        PrivateModel, typer.Option(help="What is trained; a bundle needs both.")
    ] = PrivateModel.RANKER,
    epsilon: Annotated[float, typer.Option(min=0.01, help="What this training may cost a user.")] = 5.0,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            show_default=f"{PRIVATE_EPOCHS}; two-tower {PRIVATE_TWO_TOWER_EPOCHS}",
            help="How often a user is sampled; none is stopped early.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the first weights; noise and samples have none.")] = 0,
    file: ConfigFile = None,
    changes: Changes = None,
    show: ShowConfig = False,
    as_json: JsonFlag = False,
) -> None:
    """Train the ranker, or the two-tower, into <home>/work so that it hides whether any one user was in the data.

    Differential privacy by user, with delta RECSYS_PRIVACY_DELTA. The cost is written to the ledger
    <home>/privacy.json, which refuses what exceeds RECSYS_PRIVACY_EPSILON; both models together cost about the sum.
    Publish with `recsys bundle publish --trained`.

    Example: recsys train private --model two-tower --epsilon 5
    """
    from infra.cli.training_plans import PRIVATE_OPTIONS, private_plan, private_two_tower_plan
    from infra.cli.training_runs import train_private

    settings, options = Settings(), TrainingOptions(file, changes or (), show)
    asked = settings, epsilon, epochs, seed, given_settings(ctx, PRIVATE_OPTIONS)
    towers = model is PrivateModel.TWO_TOWER
    config = options.of(private_two_tower_plan(*asked)) if towers else options.of(private_plan(*asked))
    with _log():
        done = train_private(settings, config)
    print_mapping(model.value, done, as_json)


@app.command("all")
def all_(
    ctx: typer.Context,
    seed: Seed = 0,
    recall_epochs: RecallEpochs = None,
    rank_epochs: Epochs = RANK_EPOCHS,
    compress: Compress = False,
    robust: Robust = 0.0,
    file: ConfigFile = None,
    changes: Changes = None,
    show: ShowConfig = False,
    fresh: Fresh = False,
    first: Annotated[
        bool,
        typer.Option("--first", help="In about half a minute, from the newest events; then train in full."),
    ] = False,
    minutes: Annotated[
        float, typer.Option(min=LEAST_FIRST_MINUTES, help="With --first: of build and training together.")
    ] = 1.0,
    propose: Propose = None,
    as_json: JsonFlag = False,
) -> None:
    """Train both models, build the index, publish the bundle. A running API loads it without a restart.

    Where `recsys autopilot` or `recsys release` was used before, the bundle is proposed instead.

    Settings are in the sections `recall` and `rank`: --set recall.epochs=3.

    Example: recsys train all
    """
    full = ("recall_epochs", "rank_epochs", "compress", "robust", "file", "changes", "show", "fresh")
    refuse(ctx, first, full, "--first has its own; leave it, or --first")
    refuse(ctx, not first, ("minutes",), "it is for --first")
    from infra.cli.training_plans import COMPRESSED_OPTIONS, FULL_OPTIONS, compressed_plan, full_plan
    from infra.cli.training_runs import proposes, publish_bundle, train_first, train_full

    settings, options = Settings(), TrainingOptions(file, changes or (), show)
    asked = settings, seed, recall_epochs, rank_epochs
    train: Callable[[], dict[str, object]]
    if first:
        train = partial(train_first, settings, seed, first_sizes(minutes))
    elif compress:
        compressed = options.of(compressed_plan(*asked, given_settings(ctx, COMPRESSED_OPTIONS), robust))
        train = partial(train_full, settings, compressed, fresh)
    else:
        config = options.of(full_plan(*asked, given_settings(ctx, FULL_OPTIONS), robust))
        train = partial(train_full, settings, config, fresh)
    proposing = proposes(settings) if propose is None else propose
    with _log():
        metrics = train()
        bundle = publish_bundle(settings, proposing)
    print_mapping(_done(proposing), {"version": bundle.manifest.version, **metrics}, as_json)
    if not proposing:
        console.print("next: `recsys serve`, or `recsys bundle inspect`")


@app.command()
def nightly(
    ctx: typer.Context,
    full_every: Annotated[
        int, typer.Option(min=1, help="Nights between two full trainings; 1: always train in full.")
    ] = FULL_EVERY,
    full: Annotated[bool, typer.Option("--full", help="Train in full now.")] = False,
    seed: Seed = 0,
    robust: Robust = 0.0,
    file: ConfigFile = None,
    changes: Changes = None,
    show: ShowConfig = False,
    propose: Propose = None,
    as_json: JsonFlag = False,
) -> None:
    """Continue both models from yesterday's weights with the new data, and publish the bundle, or propose it where
    bundles are released.

    Run it after `recsys features build`. The first time and every `--full-every` nights it trains in full, as
    `recsys train all --compress` does, with the same settings; a night in between reads only the new days and
    continues with the settings of the last full training, and tonight's `--robust`.

    Example: recsys train nightly
    """
    refuse(ctx, full, ["full_every"], "--full trains in full tonight in any case")
    from infra.cli.training_plans import COMPRESSED_OPTIONS, compressed_plan
    from infra.cli.training_runs import proposes, train_nightly

    settings, given = Settings(), given_settings(ctx, COMPRESSED_OPTIONS)
    plan = compressed_plan(settings, seed, None, RANK_EPOCHS, given, robust)
    config = TrainingOptions(file, changes or (), show).of(plan)
    proposing = proposes(settings) if propose is None else propose
    with _log():
        done = train_nightly(settings, config, full, full_every, proposing)
    print_mapping(_done(proposing), done, as_json)


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
    robust: Robust = 0.0,
    fresh: Fresh = False,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Teacher → student → pruned → INT8 at the case study's size (synthetic ids), into <home>/work/ladder.

    An interrupted run continues with the step it had reached. Next: `recsys report ladder`, `recsys bench rank`.

    Example: recsys train ladder
    """
    refuse(ctx, not lake, ["epochs", "robust"], "the synthetic ladder has its own; add --lake")
    refuse(ctx, lake, ["quick"], "the lake's ladder has one size; leave it, or --lake")
    from training.compression.configs import ladder_folder, ladder_setup
    from training.compression.ladder import main
    from training.compression.variants import served

    settings = Settings()
    if fresh:
        shutil.rmtree(ladder_folder(settings, lake, quick), ignore_errors=True)
    with _log():
        setup = ladder_setup(settings, lake, quick, seed, epochs, student, robust)
        variants = main(*setup, report=console.print)
    print_mapping("compression ladder", {r.name: f"{r.bytes / 1e6:.2f} MB" for r in variants}, as_json)
    console.print(f"served: {served(variants).name}")


def _done(proposing: bool) -> str:
    return "proposed; `recsys release status` follows it" if proposing else "published"


def _log() -> AbstractContextManager[None]:
    return job_log(Settings().home / "logs" / "train.log")
