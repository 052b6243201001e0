"""`GET /v1/experiments`: which experiments run, which arms a user is in, and what the arms have earned."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from recsys.experiments.assignment import Experiment
from serving.api.dependencies import READ, Outcomes, Running
from serving.api.schemas import ArmInfo, ArmOutcomes, ExperimentInfo, Id, RunningExperiments
from serving.problems import Problem

router = APIRouter(tags=["experiments"], dependencies=[READ])


@router.get("/v1/experiments")
def experiments(
    running: Running,
    user_id: Annotated[Id | None, Query(description="whose arms to name")] = None,
) -> RunningExperiments:
    """The running experiments; with `user_id`, the arms that this user is in."""
    return RunningExperiments(
        experiments=[_info(experiment) for experiment in running.running],
        error=running.error,
        user_id=user_id,
        arms=None if user_id is None else dict(running.of(user_id).arms),
    )


@router.get("/v1/experiments/{name}/outcomes")
def experiment_outcomes(
    running: Running,
    outcomes: Outcomes,
    name: Annotated[Id, Path(description="a running one")],
) -> ArmOutcomes:
    """Exposures and outcomes of each arm as they have grown, with 95 % intervals by users. They are read from the lake
    by a process of its own: behind by the archiver's wait and by `age_s`."""
    if name not in {experiment.name for experiment in running.running}:
        raise Problem(404, f"no experiment {name!r} is running; GET /v1/experiments names those that are")
    growth, age_s = outcomes.of(name)
    return ArmOutcomes(age_s=round(age_s, 3), **dict(growth))


def _info(experiment: Experiment) -> ExperimentInfo:
    total = sum(arm.weight for arm in experiment.arms)
    return ExperimentInfo(
        name=experiment.name,
        layer=experiment.layer,
        salt=experiment.salt or experiment.name,
        first=experiment.first,
        last=experiment.last,
        arms=[
            ArmInfo(name=arm.name, share=arm.weight / total, bundle=arm.bundle, settings=dict(arm.settings))
            for arm in experiment.arms
        ],
    )
