"""What each `recsys train` command would train with before `--config` and `--set`, and what it decides itself."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from infra.cli.training_options import C, Planned
from recsys.datasets.catalogue import items_path, users_path
from recsys.features.definitions import FEATURES
from recsys.models.two_tower import TwoTowerShape
from recsys.settings import Settings
from training.choices import PRIVATE_EPOCHS
from training.compression.configs import ladder_folder, lake_ladder
from training.compression.ladder import LadderConfig
from training.config import Config
from training.federated.config import FederatedConfig
from training.private.ranker import RankerLoop
from training.private.train import PrivateTraining
from training.private.train_two_tower import PrivateTwoTower
from training.private.two_tower import TwoTowerLoop
from training.ranker.clean import Cleaning
from training.ranker.loop import LoopConfig
from training.ranker.train import RankerTraining
from training.two_tower.config import TwoTowerConfig
from training.two_tower.recipe import recipe, size_of

_HOME = "the command reads and writes below RECSYS_HOME"
_NIGHTLY = "only `recsys train nightly` continues from earlier weights"
_TASTE = "it follows from the data and from `taste`"
_ONE_SEED = "one seed is for the whole ladder: `seed`"
RECALL_DECIDED = {
    **dict.fromkeys(("sequences", "items", "users", "work"), _HOME),
    **dict.fromkeys(("start", "newer_than_ms"), _NIGHTLY),
}
EVALUATED_DECIDED = {
    **RECALL_DECIDED,
    **dict.fromkeys(("validation_from_ms", "repeats"), "the protocol says what is asked for"),
    "seed": "`--seed` and `--seeds` say it",
}
FEDERATED_DECIDED = dict.fromkeys(("sequences", "items", "work"), _HOME)
RANK_DECIDED = {
    **dict.fromkeys(("examples", "items", "out", "checkpoints"), _HOME),
    "n_features": "it follows from the features' definitions",
    "model.offset": _TASTE,
}
PRIVATE_DECIDED = {
    **dict.fromkeys(("examples", "sequences", "items", "out"), _HOME),
    "n_features": RANK_DECIDED["n_features"],
    "loop.delta": "RECSYS_PRIVACY_DELTA says it, for the whole ledger",
}
LADDER_DECIDED = {
    "out": _HOME,
    **dict.fromkeys(("teacher.offset", "student.offset"), _TASTE),
    **dict.fromkeys(("teacher_loop.seed", "student_loop.seed", "tuning_loop.seed"), _ONE_SEED),
    "compared": "the command builds only what leads to the smallest ranker",
}
# a command's parameter → the settings that it gives
RECALL_OPTIONS = {"seed": ("seed",), "epochs": ("epochs",)}
FEDERATED_OPTIONS = {"seed": ("seed",), "rounds": ("rounds",)}
EVALUATED_OPTIONS = {"threads": ("threads",), "augmentation": ("augmentation",)}
RANK_OPTIONS = {
    "seed": ("loop.seed",),
    "epochs": ("loop.epochs",),
    "robust": ("loop.attack",),
    "cleaned": ("cleaning",),
}
PRIVATE_OPTIONS = {"epsilon": ("loop.epsilon",), "epochs": ("loop.epochs",), "seed": ("seed",)}
_LADDER_LOOPS = ("teacher_loop", "student_loop", "tuning_loop")
LADDER_OPTIONS = {
    "seed": ("seed",),
    "epochs": tuple(f"{loop}.epochs" for loop in _LADDER_LOOPS),
    "robust": tuple(f"{loop}.attack" for loop in _LADDER_LOOPS),
}
FULL_OPTIONS = {
    "seed": ("recall.seed", "rank.loop.seed"),
    "recall_epochs": ("recall.epochs",),
    "rank_epochs": ("rank.loop.epochs",),
    "robust": ("rank.loop.attack",),
}
COMPRESSED_OPTIONS = {
    "seed": ("recall.seed", "rank.seed"),
    "recall_epochs": ("recall.epochs",),
    "rank_epochs": tuple(f"rank.{key}" for key in LADDER_OPTIONS["epochs"]),
    "robust": tuple(f"rank.{key}" for key in LADDER_OPTIONS["robust"]),
}


class FullTraining(Config):
    """Both models."""

    recall: TwoTowerConfig = Field(description="The two-tower.")
    rank: RankerTraining = Field(description="The ranker.")


class CompressedTraining(Config):
    """Both models, the ranker compressed."""

    recall: TwoTowerConfig = Field(description="The two-tower.")
    rank: LadderConfig = Field(description="The ladder of rankers, of which one is served.")


def recall_plan(
    settings: Settings, seed: int, epochs: int | None, given: Mapping[str, str]
) -> Planned[TwoTowerConfig]:
    """Of the lake in `settings`, with the recipe for its size. `epochs`: None for the recipe's."""
    users = users_path(settings.lake)
    sequences, items = settings.features / "sequences", items_path(settings.lake)
    chosen = recipe(size_of(sequences, items))
    values = {**chosen.values, **({} if epochs is None else {"epochs": epochs})}
    config = TwoTowerConfig.model_validate(
        {
            "sequences": sequences,
            "items": items,
            "users": users if users.exists() else None,
            "shape": TwoTowerShape(profile=users.exists()),
            "work": settings.checkpoints / "two_tower",
            "seed": seed,
            **values,
        }
    )
    return Planned(config, RECALL_DECIDED, chosen.reasons, given)


def federated_plan(
    settings: Settings, seed: int, rounds: int, given: Mapping[str, str]
) -> Planned[FederatedConfig]:
    """The users of the lake in `settings` are the clients."""
    config = FederatedConfig(
        sequences=settings.features / "sequences",
        items=items_path(settings.lake),
        work=settings.checkpoints / "federated",
        seed=seed,
        rounds=rounds,
    )
    return Planned(config, FEDERATED_DECIDED, given=given)


def rank_plan(
    settings: Settings,
    seed: int,
    epochs: int,
    given: Mapping[str, str],
    robust: float = 0.0,
    cleaned: bool = False,
) -> Planned[RankerTraining]:
    config = RankerTraining(
        n_features=FEATURES.dimension,
        examples=settings.features / "examples",
        items=items_path(settings.lake),
        out=settings.home / "work" / "ranker",
        checkpoints=settings.checkpoints / "ranker",
        loop=LoopConfig(epochs=epochs, seed=seed, attack=robust),
        cleaning=Cleaning() if cleaned else None,
    )
    return Planned(config, RANK_DECIDED, given=given)


def private_plan(
    settings: Settings, epsilon: float, epochs: int | None, seed: int, given: Mapping[str, str]
) -> Planned[PrivateTraining]:
    """Of the ranker. `epochs`: None for the default."""
    config = PrivateTraining(
        n_features=FEATURES.dimension,
        examples=settings.features / "examples",
        items=items_path(settings.lake),
        out=settings.home / "work" / "ranker",
        loop=RankerLoop(
            epsilon=epsilon, delta=settings.privacy_delta, epochs=PRIVATE_EPOCHS if epochs is None else epochs
        ),
        seed=seed,
    )
    return Planned(config, PRIVATE_DECIDED, given=given)


def private_two_tower_plan(
    settings: Settings, epsilon: float, epochs: int | None, seed: int, given: Mapping[str, str]
) -> Planned[PrivateTwoTower]:
    """As `private_plan`."""
    loop = TwoTowerLoop(epsilon=epsilon, delta=settings.privacy_delta)
    config = PrivateTwoTower(
        sequences=settings.features / "sequences",
        items=items_path(settings.lake),
        examples=settings.features / "examples",
        out=settings.home / "work" / "two_tower",
        loop=loop if epochs is None else loop.replace(epochs=epochs),
        seed=seed,
    )
    return Planned(config, PRIVATE_DECIDED, given=given)


def ladder_plan(
    settings: Settings, seed: int, epochs: int, given: Mapping[str, str], robust: float = 0.0
) -> Planned[LadderConfig]:
    """Of `--compress`: the lake's own ladder, without variants for comparison."""
    config = lake_ladder(ladder_folder(settings, lake=True), seed, epochs, robust).replace(compared=False)
    return Planned(config, LADDER_DECIDED, given=given)


def full_plan(
    settings: Settings,
    seed: int,
    recall_epochs: int | None,
    rank_epochs: int,
    given: Mapping[str, str],
    robust: float = 0.0,
) -> Planned[FullTraining]:
    """Both models, as the sections `recall` and `rank`."""
    recall = recall_plan(settings, seed, recall_epochs, {})
    rank = rank_plan(settings, seed, rank_epochs, {}, robust)
    return _both(FullTraining(recall=recall.config, rank=rank.config), recall, rank, given)


def compressed_plan(
    settings: Settings,
    seed: int,
    recall_epochs: int | None,
    rank_epochs: int,
    given: Mapping[str, str],
    robust: float = 0.0,
) -> Planned[CompressedTraining]:
    """As `full_plan`, of `--compress`."""
    recall = recall_plan(settings, seed, recall_epochs, {})
    rank = ladder_plan(settings, seed, rank_epochs, {}, robust)
    return _both(CompressedTraining(recall=recall.config, rank=rank.config), recall, rank, given)


def _both(config: C, recall: Planned[Any], rank: Planned[Any], given: Mapping[str, str]) -> Planned[C]:
    def sections(name: str) -> dict[str, str]:
        parts = {"recall": getattr(recall, name), "rank": getattr(rank, name)}
        return {f"{part}.{key}": text for part, texts in parts.items() for key, text in texts.items()}

    return Planned(config, sections("decided"), sections("reasons"), given)
