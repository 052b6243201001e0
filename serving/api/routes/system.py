"""What the page's System and Data views show, for anybody who may read."""

from fastapi import APIRouter, Request

from serving.api.monitoring.models_view import ModelsState, models_state
from serving.api.monitoring.system import SystemState, system_state
from serving.services import allow, services
from serving.settings import Scope

router = APIRouter(tags=["system"])


@router.get("/v1/system")
def system(request: Request) -> SystemState:
    """Rates and percentiles of the last minute, caches, how far the stream is, drift of features since training."""
    allow(request, Scope.READ)
    return system_state(services(request))


@router.get("/v1/models")
def models(request: Request) -> ModelsState:
    """The data's validation report, training curves, and kept results of evaluations and benches."""
    allow(request, Scope.READ)
    settings = services(request).settings
    return models_state(settings.home, settings.lake)
