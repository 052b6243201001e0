"""`GET /v1/experiments`: which experiments run, and which arms a user is in."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from recsys.events import MAX_ID_LENGTH
from recsys.experiments.assignment import Experiment
from serving.schemas import ArmInfo, ExperimentInfo, RunningExperiments
from serving.security import Scope
from serving.services import allow, services
from serving.wire import PRINTABLE

router = APIRouter(tags=["experiments"])


@router.get("/v1/experiments")
def experiments(
    request: Request,
    user_id: Annotated[
        str | None,
        Query(min_length=1, max_length=MAX_ID_LENGTH, pattern=PRINTABLE, description="whose arms to name"),
    ] = None,
) -> RunningExperiments:
    """The running experiments; with `user_id`, the arms that this user is in."""
    allow(request, Scope.READ)
    running = services(request).experiments
    return RunningExperiments(
        experiments=[_info(experiment) for experiment in running.running],
        error=running.error,
        user_id=user_id,
        arms=None if user_id is None else dict(running.of(user_id).arms),
    )


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
