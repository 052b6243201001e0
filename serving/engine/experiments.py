"""Experiments in the request path: whose requests run in which arm, and what that changes.

    experiments:
      - name: diversity
        layer: rerank
        arms:
          - name: control
          - name: dpp
            settings: {rerank: {diversity: dpp, strength: 0.4}}
      - name: ranker
        layer: models
        last: 0.2                      # a fifth of the users
        salt: second-try               # shuffles the users again
        arms:
          - {name: control, weight: 1}
          - {name: student, weight: 1, bundle: 20260101-120000}

Assignment is a hash of the user (`recsys.experiments.assignment`): nothing is stored, every process agrees. Experiments
of different layers meet the same user, so they must not set the same thing.

A release adds an experiment of its own, in the layer `release`, which follows from its state (`RELEASE.json`). Users of
an experiment that chooses bundles have no part in it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.impressions import exposures_text
from recsys.contracts.types import Head
from recsys.experiments.assignment import Arm, Assigner, Assignment, Experiment
from recsys.experiments.release import LAYER
from recsys.experiments.release_file import read_experiment
from recsys.operator_files import read_yaml
from recsys.rerank.exploration import Exploration
from recsys.rerank.reranker import RerankConfig
from recsys.watched_file import WatchedFile
from serving.engine.pipeline_builder import PathConfig


class ArmSettings(BaseModel):
    """What an arm may change. Absent settings keep their defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidates: int | None = Field(None, ge=1, le=10_000, description="Candidates that are ranked.")
    rerank: RerankConfig | None = Field(None, description="Fields of the rerank stage; those given change.")
    exploration: Exploration | None = Field(None, description="Places of the list that are drawn.")
    weights: dict[Head, float] | None = Field(None, description="The value model's weight of each head.")
    shown_discount: float | None = Field(
        None, gt=0, le=1, description="Factor by which each earlier impression of an item lowers its value."
    )

    def apply(self, path: PathConfig) -> PathConfig:
        """The request path with this arm's changes."""
        rerank = path.rerank
        if self.rerank is not None:
            given = {name: getattr(self.rerank, name) for name in self.rerank.model_fields_set}
            rerank = rerank.model_copy(update=given)
        if self.exploration is not None:
            rerank = rerank.model_copy(update={"exploration": self.exploration})
        return PathConfig(
            candidates=self.candidates or path.candidates,
            rerank=rerank,
            weights=path.weights if self.weights is None else tuple(self.weights.items()),
            shown_discount=self.shown_discount or path.shown_discount,
        )


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    experiments: tuple[Experiment, ...] = ()


@dataclass(frozen=True, slots=True)
class Assigned:
    """One user's arms and their effect. `exposures`: as impressions record them; `bundle` empty: the published one;
    `release`: the arm of the release that runs, empty for users who have no part in it."""

    arms: Mapping[str, str]
    exposures: str
    path: PathConfig
    bundle: str = ""
    release: str = ""


class Experiments:
    """The experiments of a file and of the release that runs, reloaded when they change. Thread-safe."""

    def __init__(self, path: Path | None, base: PathConfig, release: Path | None = None) -> None:
        """`release`: the file of a release's state; it need not exist.
        Of an invalid file the last valid content stays, at the start none, and `error` says why."""
        self._base = base
        self._file = WatchedFile(path, read_experiments, default=Assigner(())) if path else None
        read: Callable[[Path], Assigner] = lambda p: _assigner(read_experiment(p))  # noqa: E731 - typed
        self._release = WatchedFile(release, read, default=Assigner(())) if release else None
        self._planned = _Plan(Assigner(()), Assigner(()), base)

    @property
    def running(self) -> Sequence[Experiment]:
        plan = self._plan
        return (*plan.assigner.experiments, *plan.release.experiments)

    @property
    def error(self) -> str:
        return self._file.error if self._file else ""

    @property
    def release_error(self) -> str:
        return self._release.error if self._release else ""

    @property
    def bundles(self) -> frozenset[str]:
        """Versions that an arm names."""
        return frozenset(arm.bundle for e in self.running for arm in e.arms if arm.bundle)

    def of(self, user_id: str) -> Assigned:
        return self._plan.of(user_id)

    @property
    def _plan(self) -> "_Plan":
        planned = self._planned
        assigner = self._file.value if self._file else planned.assigner
        release = self._release.value if self._release else planned.release
        if assigner is not planned.assigner or release is not planned.release:
            planned = self._planned = _Plan(assigner, release, self._base)
        return planned


class _Plan:
    """One content of the files, with the effect of each combination of arms."""

    def __init__(self, assigner: Assigner, release: Assigner, base: PathConfig) -> None:
        self.assigner = assigner
        self.release = release
        self._base = base
        self._of_release = {experiment.name for experiment in release.experiments}
        self._chooses_bundles = {e.name for e in assigner.experiments if any(arm.bundle for arm in e.arms)}
        self._combined: dict[tuple[tuple[str, str], ...], Assigned] = {}

    def of(self, user_id: str) -> Assigned:
        """Users with the same arms share the object."""
        assignments = self.assigner.assign(user_id)
        if not any(a.experiment in self._chooses_bundles for a in assignments):
            assignments += self.release.assign(user_id)
        labels = tuple((a.experiment, a.arm.name) for a in assignments)
        found = self._combined.get(labels)
        if found is None:
            found = self._combined[labels] = self._combine(assignments)
        return found

    def _combine(self, assignments: Sequence[Assignment]) -> Assigned:
        path = self._base
        for assignment in assignments:
            path = ArmSettings.model_validate(assignment.arm.settings).apply(path)
        return Assigned(
            arms={a.experiment: a.arm.name for a in assignments},
            exposures=exposures_text({a.experiment: a.exposure for a in assignments}),
            path=path,
            bundle="".join(a.arm.bundle for a in assignments),  # at most one layer chooses bundles
            release="".join(a.arm.name for a in assignments if a.experiment in self._of_release),
        )


def _assigner(experiment: Experiment | None) -> Assigner:
    return Assigner([experiment] if experiment else ())


def read_experiments(path: Path) -> Assigner:
    """Raises `InvalidConfig`: naming the file, the place and the error."""
    found = read_yaml(path, _File, InvalidConfig)
    try:
        assigner = Assigner(found.experiments)
    except ValueError as error:
        raise InvalidConfig(f"{path}: {error}") from error
    owner: dict[str, str] = {}
    for experiment in found.experiments:
        if experiment.layer == LAYER:
            raise InvalidConfig(
                f"{path}: {experiment.name}: the layer {LAYER!r} belongs to `recsys release`; use another one"
            )
        for name in {name for arm in experiment.arms for name in _changes(path, experiment, arm)}:
            if owner.setdefault(name, experiment.layer) != experiment.layer:
                raise InvalidConfig(
                    f"{path}: layers {owner[name]!r} and {experiment.layer!r} both set {name}: one user may meet"
                    " both; put the experiments into one layer"
                )
    return assigner


def _changes(path: Path, experiment: Experiment, arm: Arm) -> set[str]:
    """What an arm sets, by name; `rerank` and the exploration in it are two things."""
    where = f"{path}: {experiment.name}:{arm.name}"
    try:
        settings = ArmSettings.model_validate(arm.settings)
    except ValidationError as error:
        raise InvalidConfig(f"{where}: settings: {_first(error)}") from error
    if settings.rerank is not None and "exploration" in settings.rerank.model_fields_set:
        raise InvalidConfig(f"{where}: give `exploration` next to `rerank`, not in it")
    return set(settings.model_fields_set) | ({"bundle"} if arm.bundle else set())


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
