"""`recsys evaluate`: offline quality against baselines, on data that the models have not seen."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.options import given_settings, refuse
from infra.cli.training_options import Changes, ConfigFile, Planned, ShowConfig, TrainingOptions
from infra.terminal import JsonFlag, QuickFlag, console, epochs_bar, finish
from recsys.settings import Settings
from training.choices import (
    FEDERATED_ROUNDS,
    NEWEST_EXAMPLES,
    Augmentation,
    Order,
    PrivateModel,
    Protocol,
    RankProtocol,
)

if TYPE_CHECKING:
    from training.two_tower.config import TwoTowerConfig

app = typer.Typer(no_args_is_help=True, help="Offline quality against baselines.")


@app.command()
def recall(
    ctx: typer.Context,
    protocol: Annotated[Protocol, typer.Option(help="How the data is split into training and test.")],
    data: Annotated[
        Path | None,
        typer.Option(help="A data set's folder, a lake, or a text file of `user item item …`; not of given."),
    ] = None,
    train: Annotated[Path | None, typer.Option(help="Of given: likewise, what is trained on.")] = None,
    test: Annotated[Path | None, typer.Option(help="Of given: likewise, the items to ask for.")] = None,
    order: Annotated[
        Order,
        typer.Option(
            help="Of given: whether the order of events means something; auto: where the test's have times, and are"
            " later for most users."
        ),
    ] = Order.AUTO,
    train_until: Annotated[
        str | None, typer.Option(help="Of temporal: when validation begins (ISO 8601, else UTC).")
    ] = None,
    validate_until: Annotated[
        str | None, typer.Option(help="Of temporal: when the test begins, likewise.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and data give the same figures.")] = 0,
    seeds: Annotated[
        int,
        typer.Option(min=1, help="Trainings of the two-tower, one per seed, of which the mean is reported."),
    ] = 1,
    memory_gib: Annotated[
        float, typer.Option(min=1, help="Leave out baselines that need more memory in all.")
    ] = 8.0,
    threads: Annotated[int, typer.Option(min=0, help="Threads of torch; 0: its own choice.")] = 0,
    augmentation: Annotated[
        Augmentation | None,
        typer.Option(help="Augmentation of the training histories, instead of the recipe's own."),
    ] = None,
    file: ConfigFile = None,
    changes: Changes = None,
    show: ShowConfig = False,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Train the two-tower and its baselines on the past, then ask for what came next.

    Protocols for every data set: leave-one-out (each user's last new item), temporal (what comes after one moment; by
    default the newest tenth of the events), given (your own files of training and test). ml-1m and kuairand are
    published ones with recipes of their own. Interrupted, it continues from its checkpoint in <home>/evaluate/recall.

    Example: recsys evaluate recall --data ../shared/data/ml-100k --protocol leave-one-out --seeds 3
    """
    refuse(ctx, protocol is Protocol.GIVEN, ["data"], "given reads --train and --test")
    refuse(
        ctx,
        protocol is not Protocol.GIVEN,
        ["train", "test", "order"],
        f"{protocol} splits --data; add --protocol given",
    )
    times = ("train_until", "validate_until")
    refuse(
        ctx,
        protocol is not Protocol.TEMPORAL,
        times,
        f"{protocol} has no such times; add --protocol temporal",
    )
    from infra.cli.training_plans import EVALUATED_DECIDED, EVALUATED_OPTIONS
    from training.evaluation.recall import RecallEvaluation, main

    config = RecallEvaluation.model_validate(
        {
            "protocol": protocol,
            "data": data,
            "train": train,
            "test": test,
            "order": order,
            "train_until": train_until,
            "validate_until": validate_until,
            "work": Settings().home / "evaluate" / "recall",
            "seed": seed,
            "seeds": seeds,
            "memory_gib": memory_gib,
            "threads": threads,
            "quick": quick,
            "training": {} if augmentation is None else {"augmentation": augmentation},
        }
    )
    options, given = TrainingOptions(file, changes or (), show), given_settings(ctx, EVALUATED_OPTIONS)

    def changed(planned: "TwoTowerConfig") -> "TwoTowerConfig":
        return options.of(Planned(planned, EVALUATED_DECIDED, given=given))

    with epochs_bar("two-tower") as progress:
        result = main(config, progress, changed)
    finish(result, as_json)


@app.command()
def rank(
    ctx: typer.Context,
    data: Annotated[
        Path, typer.Option(help="A lake, a known data set's folder, or a folder with mapping.yaml.")
    ],
    protocol: Annotated[
        RankProtocol | None,
        typer.Option(
            help="Default: the published one for the KuaiRand-Pure slice, temporal for any other log."
        ),
    ] = None,
    train_share: Annotated[
        float, typer.Option(min=0.01, max=0.98, help="Of the examples, the oldest; temporal.")
    ] = 0.8,
    validation_share: Annotated[
        float, typer.Option(min=0.01, max=0.98, help="Of the examples, after them; the rest is the test.")
    ] = 0.1,
    train_until: Annotated[
        str | None, typer.Option(help="Last day of the training rows, YYYY-MM-DD, UTC; instead of shares.")
    ] = None,
    validate_until: Annotated[str | None, typer.Option(help="Last day of the validation rows.")] = None,
    newest: Annotated[
        int, typer.Option(min=1, help="Only the newest days that have this many examples; temporal.")
    ] = NEWEST_EXAMPLES,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Number of runs, one per seed.")] = 3,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Evaluate the served ranker on the served features: import, Spark features, training, test days.

    LightGBM, logistic regression and popularity on the same rows stand next to it (kuairand: LightGBM on the same
    columns, and on published simple features). Interrupted, it continues with the next step: lake, examples, weights
    and scores are stored in <home>/evaluate/rank.

    Example: recsys evaluate rank --data var/lake --seeds 1 --json
    """
    refuse(ctx, quick, ["seeds"], "--quick trains one seed")
    refuse(ctx, train_until is not None, ("train_share", "validation_share"), "--train-until splits by days")
    chosen = protocol or _rank_protocol_of(data)
    if chosen is RankProtocol.KUAIRAND:
        of_temporal = ("train_share", "validation_share", "train_until", "validate_until", "newest")
        refuse(ctx, True, of_temporal, "KuaiRand's days are published; add --protocol temporal")
    from training.evaluation.kuairand import served
    from training.evaluation.ranking import evaluate
    from training.evaluation.ranking.examples import ServedRanker

    console.print(f"protocol: {chosen}")
    run: dict[str, Any] = {
        "data": data,
        "work": _rank_work_of(data),
        "seed": seed,
        "seeds": seeds,
    }
    if chosen is RankProtocol.KUAIRAND:
        published = ServedRanker(**run)
        result = served.main(published.quick() if quick else published, report=console.print)
    else:
        shares = {"train": train_share, "validation": validation_share}
        days = {"train_until": train_until, "validate_until": validate_until}
        config = evaluate.TemporalEvaluation(**run, split={**shares, **days}, newest=newest)
        result = evaluate.main(config.quick() if quick else config, report=console.print)
    finish(result, as_json)


def _rank_protocol_of(data: Path) -> RankProtocol:
    from training.evaluation.kuairand.log import is_slice

    return RankProtocol.KUAIRAND if is_slice(data) else RankProtocol.TEMPORAL


def _rank_work_of(data: Path) -> Path:
    """One folder per path: many lakes are called `lake`."""
    path = data.resolve()
    digest = hashlib.sha256(path.as_posix().encode()).hexdigest()[:8]
    return Settings().home / "evaluate" / "rank" / f"{path.name}-{digest}"


@app.command("rank-benchmark")
def rank_benchmark(
    ctx: typer.Context,
    data: Annotated[Path, typer.Option(help="Folder of the KuaiRand-Pure slice.")],
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Number of runs, one per seed.")] = 3,
    contributions: Annotated[
        bool, typer.Option(help="Also measure each feature group's contribution.")
    ] = True,
    processes: Annotated[int, typer.Option(min=1, help="Models that are trained in parallel.")] = 1,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Model benchmark: architectures and baselines on 123 KuaiRand-only features, which no product path serves.

    Interrupted, it continues with the next model: scores are stored in <home>/evaluate/rank-benchmark.

    Example: recsys evaluate rank-benchmark --data ../shared/data/kuairand-pure-part --json
    """
    refuse(ctx, quick, ("seeds", "contributions"), "--quick trains one seed and measures no feature groups")
    from training.evaluation.kuairand.benchmark import RankEvaluation
    from training.evaluation.kuairand.evaluate import main

    config = RankEvaluation(
        data=data,
        seed=seed,
        seeds=seeds,
        work=Settings().home / "evaluate" / "rank-benchmark",
        processes=processes,
        is_quick=quick,
        contributions=contributions,
    )
    finish(main(config, report=console.print), as_json)


@app.command()
def nightly(
    data: Annotated[Path, typer.Option(help="Folder of the KuaiRand-Pure slice.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed and data give the same figures.")] = 0,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare a ranker that is updated each night with one that is trained in full each night, on the days after.

    Example: recsys evaluate nightly --data ../shared/data/kuairand-pure-part --json
    """
    from training.nightly.evaluate import NightlyEvaluation, main

    finish(main(NightlyEvaluation(data=data, seed=seed, is_quick=quick), report=console.print), as_json)


@app.command()
def robust(
    seed: Annotated[int, typer.Option(min=0, help="Seed of the rows, the robots and the training.")] = 0,
    epsilon: Annotated[float, typer.Option(min=0, help="How far an attack may move an embedding.")] = 0.05,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Clean and attacked AUC of rankers trained plainly, under FGSM and under PGD; AUC with robots in the training
    rows, before and after cleaning. Synthetic rows.

    Example: recsys evaluate robust --json
    """
    from training.evaluation.robustness import RobustEvaluation, main

    config = RobustEvaluation.quick(seed) if quick else RobustEvaluation(seed=seed)
    finish(main(config.replace(epsilon=epsilon), report=console.print), as_json)


@app.command()
def federated(
    ctx: typer.Context,
    data: Annotated[Path, typer.Option(help="Folder of MovieLens-1M with `sequences_stable.txt`.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed and data give the same figures.")] = 0,
    rounds: Annotated[
        int, typer.Option(min=32, help="Of the federated training; 32 move every direction once.")
    ] = FEDERATED_ROUNDS,
    curves: Annotated[bool, typer.Option(help="Also measure attackers and privacy.")] = True,
    plot: Annotated[
        Path | None, typer.Option(help="Write quality against payload and ε to this PNG.")
    ] = None,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare federated training with the same model trained centrally: quality, payload, attackers, privacy.

    Each user is a client; the protocol is that of `recsys evaluate recall --protocol ml-1m`.

    Example: recsys evaluate federated --data ../shared/data/ml-1m --plot var/federated.png --json
    """
    refuse(ctx, quick, ["rounds"], "--quick runs a few rounds")
    refuse(ctx, not curves, ["plot"], "it needs the curves")
    from infra.evaluation.reports.federated import draw
    from training.evaluation.federated import FederatedEvaluation, main

    config = FederatedEvaluation(data=data, seed=seed, curves=curves).with_rounds(rounds)
    result = main(config.quick() if quick else config, report=console.print)
    if plot is not None:
        draw(result, plot)
    finish(result, as_json)


@app.command()
def private(
    ctx: typer.Context,
    data: Annotated[
        Path, typer.Option(help="Folder of the KuaiRand-Pure slice; for the two-tower, of MovieLens-1M.")
    ],
    model: Annotated[PrivateModel, typer.Option(help="Which model is compared.")] = PrivateModel.RANKER,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and data give the same figures.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Write AUC against epsilon to this file.")] = None,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare models trained under user-level differential privacy with a plain one. The ranker: click AUC, membership
    attacks, an audit by canaries, time per step. The two-tower: hit rates, and popularity.

    Example: recsys evaluate private --data ../shared/data/kuairand-pure-part --json
    """
    if model is PrivateModel.TWO_TOWER:
        refuse(ctx, True, ["plot"], "it draws the ranker's AUC; leave it")
        from training.evaluation.private import two_tower

        towers = two_tower.PrivateTwoTowerEvaluation(data=data, seed=seed)
        finish(two_tower.main(towers.quick() if quick else towers, report=console.print), as_json)
    from infra.evaluation.reports.private import plot as plotted
    from training.evaluation.private.evaluate import PrivateEvaluation, main

    config = PrivateEvaluation(data=data, seed=seed)
    result = main(config.quick() if quick else config, report=console.print)
    if plot is not None:
        plotted(result, plot)
    finish(result, as_json)
