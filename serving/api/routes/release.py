"""`GET /v1/release`: the release that runs or ran last, and the audit log. Decisions are `recsys release`'s."""

from fastapi import APIRouter

from recsys.bundle import current_version
from recsys.contracts.errors import InvalidBundle, InvalidConfig
from recsys.experiments import release_file
from recsys.experiments.release import Release as State
from recsys.experiments.release import exposure
from serving.api.dependencies import READ, Settings
from serving.api.schemas import Release, ReleaseCheck, ReleaseLine, Releases

router = APIRouter(tags=["release"], dependencies=[READ])
_LINES = 30


@router.get("/v1/release")
def release(settings: Settings) -> Releases:
    """Stage, exposure, the offline gate's checks, the guardrails' p-values, and the latest stages of all releases."""
    bundles = settings.bundles
    try:
        state, waiting, published = (
            release_file.read_release(bundles),
            release_file.waiting(bundles),
            current_version(bundles),
        )
    except (InvalidConfig, InvalidBundle) as error:
        return Releases(published=None, waiting=None, release=None, history=[], error=str(error))
    return Releases(
        published=published,
        waiting=waiting,
        release=None if state is None else _shown(state),
        history=[ReleaseLine.model_validate(line) for line in release_file.history(bundles)[-_LINES:]],
    )


def _shown(state: State) -> Release:
    return Release(
        version=state.version,
        serving=state.serving,
        stage=state.stage,
        share=exposure(state.stage),
        since_ms=state.since_ms,
        reason=state.reason,
        users=state.users,
        p=dict(state.p),
        checks=[
            ReleaseCheck(name=c.name, candidate=c.candidate, serving=c.serving, problem=c.problem)
            for c in state.checks
        ],
    )
