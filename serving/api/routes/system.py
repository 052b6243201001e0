"""What the console's System and Data & models views show."""

from fastapi import APIRouter

from serving.api.dependencies import READ, Settings, System
from serving.api.monitoring.models_view import ModelsState, models_state
from serving.api.monitoring.system import SystemState

router = APIRouter(tags=["system"], dependencies=[READ])


@router.get("/v1/system")
def system(view: System) -> SystemState:
    """Rates and percentiles of the last minute, caches, how far the stream is, drift of features since training."""
    return view.state()


@router.get("/v1/models")
def models(settings: Settings) -> ModelsState:
    """The data's validation report, training curves, and saved results of evaluations and benchmarks."""
    return models_state(settings.home, settings.lake)
