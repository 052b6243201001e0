"""What a route may ask for, as FastAPI dependencies. The composition root fills `app.state`."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import Depends, Request

from recsys.store.base import FeatureStore
from serving.api.accepted_changes import ChangeIntake
from serving.api.access import Access
from serving.api.monitoring.experiment_outcomes import ExperimentOutcomes
from serving.api.monitoring.system import SystemView
from serving.api.security import Caller
from serving.engine.device_models import DeviceModels
from serving.engine.experiments import Experiments
from serving.engine.item_feed import ItemFeed
from serving.engine.model_host import ModelHost
from serving.engine.runtime import Runtime
from serving.engine.shadow import Shadow
from serving.ingest.outbox import Outboxes
from serving.settings import Scope, ServingSettings
from serving.telemetry import Telemetry


def _state(name: str) -> Any:
    async def read(request: Request) -> Any:
        return getattr(request.app.state, name)

    return Depends(read)


def _caller(scope: Scope) -> Any:
    async def check(request: Request) -> Caller:
        access: Access = request.app.state.access
        return await access.check(request, scope)

    return Depends(check)


def _uncounted(scope: Scope) -> Any:
    async def check(request: Request) -> Caller:
        access: Access = request.app.state.access
        return await access.caller(request, scope)

    return Depends(check)


Reader = Annotated[Caller, _caller(Scope.READ)]
Writer = Annotated[Caller, _caller(Scope.WRITE)]
Admin = Annotated[Caller, _caller(Scope.ADMIN)]
UncountedWriter = Annotated[Caller, _uncounted(Scope.WRITE)]  # for routes that count the records of a body
READ = _caller(Scope.READ)  # for routes that need no name of the caller

Changes = Annotated[ChangeIntake, _state("changes")]
Clock = Annotated[Callable[[], int], _state("now_ms")]
Devices = Annotated[DeviceModels, _state("devices")]
Files = Annotated[Callable[[], Mapping[str, str]], _state("damaged_files")]
Feed = Annotated[ItemFeed, _state("feed")]
Keyed = Annotated[Access, _state("access")]
Host = Annotated[ModelHost[Runtime], _state("host")]
Outcomes = Annotated[ExperimentOutcomes, _state("outcomes")]
Running = Annotated[Experiments, _state("experiments")]
Settings = Annotated[ServingSettings, _state("settings")]
ShadowBundle = Annotated[Shadow, _state("shadow")]
Spools = Annotated[Outboxes, _state("outboxes")]
Store = Annotated[FeatureStore, _state("store")]
System = Annotated[SystemView, _state("system")]
Metrics = Annotated[Telemetry, _state("telemetry")]
