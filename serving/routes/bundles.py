"""Bundles: which there are, which one answers, and switching by hand (scope admin)."""

from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Request

from recsys.bundle import open_bundle, versions
from recsys.errors import InvalidBundle
from serving.problems import Problem, request_id
from serving.schemas import Activated, BundleInfo, Bundles
from serving.security import Scope
from serving.services import Services, allow, services

router = APIRouter(tags=["bundles"])
_audit = structlog.get_logger("audit")

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
    if version not in versions(parts.settings.bundles):
        raise Problem(404, f"there is no bundle {version!r}; GET /v1/bundles lists them")
    previous = parts.host.active
    _audit.info(
        "activate bundle",
        version=version,
        previous=previous,
        key=caller.name,
        request_id=request_id(request),
    )
    parts.host.publish(version)
    return Activated(active=version, previous=previous)


def _info(parts: Services, version: str) -> BundleInfo:
    refused = parts.host.refused.get(version, "")
    try:
        manifest = open_bundle(parts.settings.bundles / version).manifest
    except InvalidBundle as error:
        return BundleInfo(version=version, active=False, refused=refused or str(error))
    return BundleInfo(
        version=version,
        active=version == parts.host.active,
        created_ms=manifest.created_ms,
        metrics=dict(manifest.metrics),
        refused=refused,
    )
