"""`GET /v1/edge/…`: the model that devices rerank with (docs/device.md). Models and deltas never change under their
address, so that any cache may keep them."""

import hashlib
from base64 import b64encode
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from recsys.features.definitions import ENGAGED_VISITS
from recsys.models.encoding import TYPE_NUMBERS
from serving.api.cacheable import IMMUTABLE, NOT_MODIFIED, IfNoneMatch, cacheable, renewed
from serving.api.dependencies import Devices, Reader
from serving.api.schemas import DeviceArray, DeviceDelta, DeviceManifest
from serving.engine.device_models import DeviceModel
from serving.problems import Problem

router = APIRouter(tags=["edge"])

_SHA256 = r"^[0-9a-f]{64}$"
_ONNX, _DELTA = "application/octet-stream", "application/zlib"


def _binary(media_type: str) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that sends bytes."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {200: {"description": "The bytes", "content": content}} | NOT_MODIFIED


Version = Annotated[str, Path(pattern=_SHA256, description="SHA-256 of a model")]


@router.get("/v1/edge/manifest", response_model=DeviceManifest, responses=NOT_MODIFIED)
def manifest(
    caller: Reader,
    devices: Devices,
    version: Annotated[
        str, Query(pattern=rf"{_SHA256}|^$", description="of a list; default: the active")
    ] = "",
    if_none_match: IfNoneMatch = "",
) -> Response:
    """The model, its deltas, and the golden arrays that a device compares before it uses it."""
    model = _found(devices.find(version))
    content = DeviceManifest(
        bundle=model.bundle.manifest.version,
        model=model.version,
        bytes=len(model.content),
        deltas={
            base: DeviceDelta(bytes=len(change), sha256=hashlib.sha256(change).hexdigest())
            for base, change in model.deltas.items()
        },
        history=ENGAGED_VISITS.size,
        types={str(kind): number for kind, number in TYPE_NUMBERS.items()},
        golden={
            name: DeviceArray(
                dtype=str(array.dtype), shape=list(array.shape), data=b64encode(array.tobytes()).decode()
            )
            for name, array in model.golden.items()
        },
    )
    return renewed(caller, content, model.bundle.manifest.version, if_none_match)


@router.get("/v1/edge/model/{version}", response_class=Response, responses=_binary(_ONNX))
def model(caller: Reader, devices: Devices, version: Version, if_none_match: IfNoneMatch = "") -> Response:
    """`edge.onnx` of a loaded bundle."""
    found = _found(devices.find(version))
    return cacheable(caller, found.content, _ONNX, version, IMMUTABLE, if_none_match)


@router.get("/v1/edge/delta/{base}/{version}", response_class=Response, responses=_binary(_DELTA))
def change(
    caller: Reader, devices: Devices, base: Version, version: Version, if_none_match: IfNoneMatch = ""
) -> Response:
    """From an earlier model to one of a loaded bundle: bytes to add to the earlier one's, modulo 256, as zlib deflates
    them."""
    found = _found(devices.find(version)).deltas.get(base)
    if found is None:
        raise Problem(404, f"no delta from {base[:12]}; download the model: GET /v1/edge/model/{version}")
    return cacheable(caller, found, _DELTA, f"{base}-{version}", IMMUTABLE, if_none_match)


def _found(model: DeviceModel | None) -> DeviceModel:
    if model is None:
        raise Problem(
            404,
            "no loaded bundle has such a model; models for devices come with compiled students: `recsys train rank"
            " --compress`",
        )
    return model
