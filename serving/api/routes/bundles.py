"""Bundles: which there are, which one answers, and switching by hand (scope admin)."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from recsys.bundle import read_manifest, versions
from recsys.contracts.errors import InvalidBundle, InvalidConfig
from serving.api.audit import audit
from serving.api.schemas import Activated, BundleInfo, Bundles, Shadowed, ShadowReport, Unloaded
from serving.engine.shadow import set_shadow
from serving.problems import Problem
from serving.services import Services, allow, services
from serving.settings import Scope

router = APIRouter(tags=["bundles"])

Version = Annotated[
    str, Path(pattern=r"^[0-9A-Za-z][0-9A-Za-z._-]{0,63}$", description="as GET /v1/bundles names it")
]


@router.get("/v1/bundles")
def bundles(request: Request) -> Bundles:
    """Every bundle in the folder, and why those that were refused were."""
    allow(request, Scope.READ)
    parts = services(request)
    return Bundles(
        active=parts.host.active,
        bundles=[_info(parts, version) for version in versions(parts.settings.bundles)],
    )


@router.post("/v1/bundles/{version}/activate")
def activate(request: Request, version: Version) -> Activated:
    """Load, check and swap in a bundle, and publish it for the other workers. No request is dropped."""
    caller = allow(request, Scope.ADMIN)
    parts = services(request)
    _known(parts, version)
    previous = parts.host.active
    audit(request, caller, "activate bundle", version=version, previous=previous)
    parts.host.publish(version)
    return Activated(active=version, previous=previous)


@router.get("/v1/bundles/shadow")
def shadow_report(request: Request) -> ShadowReport:
    """How the shadow's lists differ from those that were shown. Of the process that answers; `recsys_shadow` in
    `/metrics` counts for all."""
    allow(request, Scope.READ)
    report = services(request).shadow.report()
    if report is None:
        raise Problem(404, "there is no shadow; begin with POST /v1/bundles/VERSION/shadow")
    return ShadowReport.model_validate(report)


@router.post("/v1/bundles/{version}/shadow")
def begin_shadow(request: Request, version: Version) -> Shadowed:
    """Answer a share of the requests with this bundle, too, seen by nobody, in all processes, until it is ended."""
    caller = allow(request, Scope.ADMIN)
    parts = services(request)
    _known(parts, version)
    if version == parts.host.active:
        raise Problem(409, f"bundle {version!r} answers already; a shadow is another one")
    audit(request, caller, "begin shadow", version=version)
    try:
        parts.host.load(version)
    except InvalidConfig as error:  # no room beside the bundles in use
        raise Problem(409, str(error)) from error
    set_shadow(parts.settings.bundles, version)
    parts.host.look()
    return Shadowed(shadow=version)


@router.delete("/v1/bundles/shadow", status_code=204)
def end_shadow(request: Request) -> Response:
    """No shadow any more. Doing it again is no error."""
    caller = allow(request, Scope.ADMIN)
    parts = services(request)
    audit(request, caller, "end shadow", version=parts.shadow.version)
    set_shadow(parts.settings.bundles, None)
    parts.host.look()
    return Response(status_code=204)


@router.post("/v1/bundles/{version}/unload")
def unload(request: Request, version: Version) -> Unloaded:
    """Free a bundle that is not in use, in this process; the least recently used go by themselves."""
    caller = allow(request, Scope.ADMIN)
    parts = services(request)
    audit(request, caller, "unload bundle", version=version)
    try:
        parts.host.unload(version)
    except InvalidConfig as error:
        raise Problem(409, str(error)) from error
    return Unloaded(loaded=sorted(parts.host.loaded))


def _known(parts: Services, version: str) -> None:
    if version not in versions(parts.settings.bundles):
        raise Problem(404, f"there is no bundle {version!r}; GET /v1/bundles lists them")


def _info(parts: Services, version: str) -> BundleInfo:
    refused = parts.host.refused.get(version, "")
    try:
        manifest = read_manifest(parts.settings.bundles / version)
    except InvalidBundle as error:
        return BundleInfo(version=version, active=False, refused=refused or str(error))
    return BundleInfo(
        version=version,
        active=version == parts.host.active,
        created_ms=manifest.created_ms,
        metrics=dict(manifest.metrics),
        refused=refused,
        loaded_bytes=parts.host.loaded.get(version, 0),
    )
