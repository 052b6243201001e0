"""What `recsys train` runs: each model's training with its options, and publishing."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from infra.cli.training_plans import RECALL_DECIDED, CompressedTraining, FullTraining, rank_plan, recall_plan
from infra.release.autopilot import is_running
from infra.terminal import console, epochs_bar
from recsys.bundle import Bundle, current_version
from recsys.contracts.errors import InvalidConfig
from recsys.datasets.catalogue import items_path
from recsys.experiments.release_file import is_in_use, propose
from recsys.features.definitions import FEATURES
from recsys.lake.lake import count_rows, days, newest_days, start_of
from recsys.settings import Settings
from training import publish
from training.choices import FirstSizes
from training.compression.configs import lake_ladder_input
from training.compression.ladder import LadderConfig, main
from training.compression.variants import candidate, take
from training.federated import export as export_federated
from training.federated import train as train_federated_vectors
from training.federated.config import FederatedConfig
from training.nightly.ranker import NIGHT, RankerUpdate
from training.nightly.update import nights_since_full, update_ranker, update_two_tower
from training.privacy.ledger import Ledger
from training.private import train as train_private_ranker
from training.private import train_two_tower as train_private_towers
from training.private.train import PrivateTraining
from training.private.train_two_tower import PrivateTwoTower
from training.private.work_folder import is_private
from training.publish import PublishConfig
from training.ranker import train as train_ranker
from training.ranker.loop import LoopConfig
from training.ranker.train import RankerTraining
from training.two_tower import export as export_two_tower
from training.two_tower import train as train_two_tower
from training.two_tower.config import TwoTowerConfig, Validation
from training.two_tower.warm_start import trained_config
from training.warm_start import WARM_START, read_warm_start


def train_nightly(
    settings: Settings, plan: CompressedTraining, full: bool, full_every: int, proposing: bool
) -> dict[str, object]:
    """Update both models with the new days, or train in full, and publish or propose; returns version and figures.

    An update continues with the configuration that yesterday's models were trained with.
    """
    towers, ranker = _work(settings, "two_tower"), _work(settings, "ranker")
    for work in (towers, ranker):
        if is_private(work):
            raise InvalidConfig(
                f"{work}: trained privately, and a night has no noise; train it with `recsys train private`, or"
                " without privacy with `recsys train all`"
            )
    if full or nights_since_full(towers, ranker) + 1 >= full_every:
        train_recall(settings, plan.recall, fresh=False)
        figures = train_compressed(settings, plan.rank, fresh=False)
    else:
        today = {name: getattr(plan.recall, name) for name in (*RECALL_DECIDED, "seed")}
        with epochs_bar("two-tower") as progress:
            update_two_tower(trained_config(towers).replace(**today), towers, progress)
        agreed = read_warm_start(ranker).must_agree
        report = update_ranker(
            RankerUpdate(
                n_features=FEATURES.dimension,
                examples=settings.features / "examples",
                items=items_path(settings.lake),
                work=ranker,
                out=ranker.with_name("ranker.new"),
                history_length=agreed["history length"],
                item_attributes=agreed["item attributes"],
                loop=night_loop(plan),
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
    return {"version": publish_bundle(settings, proposing).manifest.version, **figures}


def night_loop(plan: CompressedTraining) -> LoopConfig:
    """Of a night in between: as long and as fast as any, under the attack of the plan's last step."""
    last = plan.rank.tuning_loop
    return NIGHT.replace(seed=plan.rank.seed, attack=last.attack, attack_steps=last.attack_steps)


def train_full(
    settings: Settings, config: FullTraining | CompressedTraining, fresh: bool
) -> dict[str, object]:
    """Both models in full; each figure is named after its model."""
    recall: Mapping[str, object] = train_recall(settings, config.recall, fresh)
    if isinstance(config, CompressedTraining):
        rank = train_compressed(settings, config.rank, fresh)
    else:
        rank = train_rank(settings, config.rank, fresh)
    named = {"recall": recall, "rank": rank}
    return {f"{model} {name}": value for model, found in named.items() for name, value in found.items()}


def train_recall(settings: Settings, config: TwoTowerConfig, fresh: bool) -> dict[str, float]:
    _forget(fresh, config.work)
    with epochs_bar("two-tower") as progress:
        result = train_two_tower.main(config, progress)
    export_two_tower.main(result, _work(settings, "two_tower"))
    _forget(True, config.work)  # done: the next run trains on the next data from the start
    return result.validation


def train_federated(settings: Settings, config: FederatedConfig, fresh: bool) -> dict[str, object]:
    """The two-tower in rounds over the lake's users, each a simulated client."""
    _forget(fresh, config.work)
    with epochs_bar("federated", "round") as progress:
        result = train_federated_vectors.main(
            config, lambda done, loss: progress(f"loss {loss:.3f}", done, config.rounds), ledger(settings)
        )
    export_federated.main(result, _work(settings, "two_tower"))
    _forget(has_ranker(settings), config.work)  # without one, the next run continues from here and publishes
    sums = sum(report.groups + report.left_out for report in result.rounds)
    return {
        "rounds": len(result.rounds),
        "loss": result.rounds[-1].loss,
        "clients per round": sum(report.clients for report in result.rounds) / len(result.rounds),
        "left out of group sums": sum(report.left_out for report in result.rounds) / max(sums, 1),
        **{f"{name} of the item vectors": value for name, value in result.privacy.items()},
    }


def has_ranker(settings: Settings) -> bool:
    return (_work(settings, "ranker") / publish.SUMMARY).exists()


def train_first(settings: Settings, seed: int, sizes: FirstSizes) -> dict[str, object]:
    """Both models from the newest events, in a time that follows from `sizes`, whatever the lake holds."""
    checkpoints = settings.checkpoints / "first"
    _forget(True, checkpoints)
    towers = recall_plan(settings, seed, sizes.epochs, {}).config.replace(
        work=checkpoints,
        validation=Validation.NONE,
        newer_than_ms=newer_than_ms(settings.lake, sizes.events),
    )
    with epochs_bar("two-tower") as progress:
        export_two_tower.main(train_two_tower.main(towers, progress), _work(settings, "two_tower"))
    ranker = rank_plan(settings, seed, 1, {}).config.replace(
        checkpoints=checkpoints, newest=sizes.examples, taste=False
    )
    with epochs_bar("ranker") as progress:
        report = train_ranker.main(ranker, lambda epoch, score: progress("fit", epoch, 1))
    _forget(True, checkpoints)
    for model in ("two_tower", "ranker"):  # the next night trains in full
        (_work(settings, model) / WARM_START).unlink()
    return {f"rank {name}": value for name, value in report.metrics.items()}


def newer_than_ms(lake: Path, events: int) -> int:
    """The midnight before the newest days that have this many events together; 0: the lake has no more."""
    rows = {day: count_rows(lake, first_day=day, last_day=day) for day in days(lake)}
    newest = newest_days(rows, events)
    return 0 if len(newest) == len(rows) else start_of(newest[0]) - 1


def proposes(settings: Settings) -> bool:
    """Whether what is trained is proposed: bundles are released here, and one serves already."""
    return is_in_use(settings.bundles) and current_version(settings.bundles) is not None


def publish_bundle(settings: Settings, proposing: bool) -> Bundle:
    """Write the bundle, then publish it or propose it to the release."""
    bundle = publish.main(
        PublishConfig(
            lake=settings.lake,
            two_tower=_work(settings, "two_tower"),
            ranker=_work(settings, "ranker"),
            bundles=settings.bundles,
            examples=settings.features / "examples",
            signing_key=settings.bundle_signing_key,
            keys=settings.bundle_keys,
            current=not proposing,
        )
    )
    if proposing:
        propose(settings.bundles, bundle.manifest.version)
        if not is_running(settings.bundles):
            console.print(
                "no release process runs here; it waits for `recsys autopilot` (or train with --publish)"
            )
    return bundle


def train_rank(settings: Settings, config: RankerTraining, fresh: bool) -> dict[str, object]:
    _forget(fresh, config.checkpoints)
    with epochs_bar("ranker") as progress:
        report = train_ranker.main(config, lambda epoch, score: progress("fit", epoch, config.loop.epochs))
    _forget(True, config.checkpoints)
    return {**report.metrics, **{f"left out: {reason}": n for reason, n in report.removed.items()}}


def train_private(settings: Settings, config: PrivateTraining | PrivateTwoTower) -> dict[str, object]:
    with epochs_bar("private") as progress:

        def report(step: int, steps: int) -> None:
            progress("fit", config.loop.epochs * step / steps, config.loop.epochs)

        if isinstance(config, PrivateTwoTower):
            done = train_private_towers.main(config, ledger(settings), report)
        else:
            done = train_private_ranker.main(config, ledger(settings), report)
    return {**done.metrics, **done.privacy, "epsilon of the ledger": done.spent}


def ledger(settings: Settings) -> Ledger:
    """Of everything that is trained with noise, or published with it, here."""
    return Ledger(settings.privacy_ledger, settings.privacy_epsilon, settings.privacy_delta)


def train_compressed(settings: Settings, config: LadderConfig, fresh: bool) -> dict[str, object]:
    """The lake's own ladder. The chosen variant becomes <home>/work/ranker, the teacher if none passed."""
    _forget(fresh, config.out)
    given = lake_ladder_input(settings, config)
    variants = main(config, given, report=console.print)
    chosen = candidate(variants)
    if chosen.reasons:
        console.print(
            f"no smaller variant passed its gate, the teacher is served; {chosen.name}: {chosen.reasons}"
        )
        chosen = variants[0]
    take(config.out / chosen.name, _work(settings, "ranker"))
    assert given.warm_start is not None  # noqa: S101 - of the lake's examples
    given.warm_start.write(_work(settings, "ranker"))
    return {"variant": chosen.name, "mb": chosen.bytes / 1e6, **chosen.metrics}


def _work(settings: Settings, model: str) -> Path:
    return settings.home / "work" / model


def _forget(fresh: bool, checkpoints: Path) -> None:
    if fresh:
        shutil.rmtree(checkpoints, ignore_errors=True)
