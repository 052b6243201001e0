"""Bundles: which there are, which one answers, and switching by hand (scope admin)."""

from pathlib import Path as Folder
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from recsys.bundle import read_manifest, versions
from recsys.contracts.errors import InvalidBundle, InvalidConfig
from serving.api.audit import audit
from serving.api.dependencies import READ, Admin, Host, Settings, ShadowBundle
from serving.api.schemas import Activated, BundleInfo, Bundles, Shadowed, Unloaded
from serving.engine.model_host import ModelHost
from serving.engine.runtime import Runtime
from serving.engine.shadow import ShadowReport, set_shadow
from serving.problems import Problem
from serving.settings import ServingSettings

router = APIRouter(tags=["bundles"])

Version = Annotated[
    str, Path(pattern=r"^[0-9A-Za-z][0-9A-Za-z._-]{0,63}$", description="as GET /v1/bundles names it")
]


@router.get("/v1/bundles", dependencies=[READ])
def bundles(host: Host, settings: Settings) -> Bundles:
    """Every bundle in the folder; `refused` says why one cannot be served."""
    return Bundles(
        active=host.active,
        bundles=[_info(host, settings.bundles, version) for version in versions(settings.bundles)],
    )


@router.post("/v1/bundles/{version}/activate")
def activate(request: Request, caller: Admin, host: Host, settings: Settings, version: Version) -> Activated:
    """Load, check and swap in a bundle, and publish it for the other workers. No request is dropped."""
    _known(settings, version)
    previous = host.active
    audit(request, caller, "activate bundle", version=version, previous=previous)
    host.publish(version)
    return Activated(active=version, previous=previous)


@router.get("/v1/bundles/shadow", dependencies=[READ])
def shadow_report(shadow: ShadowBundle) -> ShadowReport:
    """How the shadow's lists differ from those that were shown, in the process that answers; `recsys_shadow` in
    `/metrics` counts over all processes."""
    report = shadow.report()
    if report is None:
        raise Problem(404, "there is no shadow; start one with POST /v1/bundles/VERSION/shadow")
    return report


@router.post("/v1/bundles/{version}/shadow")
def begin_shadow(
    request: Request, caller: Admin, host: Host, settings: Settings, version: Version
) -> Shadowed:
    """Mirror a share of the traffic to this bundle in all processes, until the shadow is ended. Its responses are
    discarded."""
    _known(settings, version)
    if version == host.active:
        raise Problem(409, f"bundle {version!r} is active; choose another one as the shadow")
    audit(request, caller, "begin shadow", version=version)
    try:
        host.load(version)
    except InvalidConfig as error:  # no room besides the bundles in use
        raise Problem(409, str(error)) from error
    set_shadow(settings.bundles, version)
    host.poll()
    return Shadowed(shadow=version)


@router.delete("/v1/bundles/shadow", status_code=204)
def end_shadow(
    request: Request, caller: Admin, host: Host, shadow: ShadowBundle, settings: Settings
) -> Response:
    """End the shadow. Without one this does nothing."""
    audit(request, caller, "end shadow", version=shadow.version)
    set_shadow(settings.bundles, None)
    host.poll()
    return Response(status_code=204)


@router.post("/v1/bundles/{version}/unload")
def unload(request: Request, caller: Admin, host: Host, version: Version) -> Unloaded:
    """Unload a bundle that is not in use, in this process. The least recently used ones are unloaded by themselves."""
    audit(request, caller, "unload bundle", version=version)
    try:
        host.unload(version)
    except InvalidConfig as error:
        raise Problem(409, str(error)) from error
    return Unloaded(loaded=sorted(host.loaded))


def _known(settings: ServingSettings, version: str) -> None:
    if version not in versions(settings.bundles):
        raise Problem(404, f"there is no bundle {version!r}; GET /v1/bundles lists them")


def _info(host: ModelHost[Runtime], bundles: Folder, version: str) -> BundleInfo:
    refused = host.refused.get(version, "")
    try:
        manifest = read_manifest(bundles / version)
    except InvalidBundle as error:
        return BundleInfo(version=version, active=False, refused=refused or str(error))
    return BundleInfo(
        version=version,
        active=version == host.active,
        created_ms=manifest.created_ms,
        metrics=dict(manifest.metrics),
        refused=refused,
        loaded_bytes=host.loaded.get(version, 0),
    )
