"""The OpenAPI document: FastAPI's, with the msgspec structs of the fast routes among its schemas."""

from typing import Any

import msgspec
from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from serving.api import schemas, wire

REQUEST_ID = "01970000-0000-7000-8000-000000000000"  # of examples
_REF = "#/components/schemas/{name}"
_PROBLEMS = {
    400: "The body is not JSON",
    401: "No valid API key",
    403: "The key lacks the scope",
    410: "The cursor is too old; start the list again",
    413: "The body or the batch is too large",
    422: "A field is not valid",
    429: "The key has used up its rate; retry after the seconds in Retry-After",
    503: "Nothing can be answered now; retry after the seconds in Retry-After",
}
_STRUCTS = (
    wire.RecommendationRequest,
    wire.Recommendations,
    wire.RecommendationBatch,
    wire.BatchAnswers,
    wire.RankRequest,
    wire.Ranking,
    wire.EventRequest,
    wire.EventBatch,
    wire.EventResults,
)


def body(*structs: type[msgspec.Struct], **examples: object) -> dict[str, Any]:
    """`openapi_extra` of a route that decodes its body into one of the structs."""
    references = [{"$ref": _REF.format(name=struct.__name__)} for struct in structs]
    content = {
        "schema": references[0] if len(references) == 1 else {"oneOf": references},
        "examples": {name.replace("_", " "): {"value": value} for name, value in examples.items()},
    }
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def answer(
    status: int, description: str, struct: type[msgspec.Struct], example: object
) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that encodes its answer from a struct."""
    content = {"schema": {"$ref": _REF.format(name=struct.__name__)}, "example": example}
    return {status: {"description": description, "content": {"application/json": content}}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` that are problems."""
    return {status: _problem(_PROBLEMS[status]) for status in statuses}


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": _REF.format(name="Problem")}
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}


EVERYWHERE = problems(422) | {"default": _problem("Any other error")}


def install(app: FastAPI) -> None:
    """Make `app.openapi()` complete."""
    fastapi_document = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            components = fastapi_document()["components"]["schemas"]
            components |= msgspec.json.schema_components(_STRUCTS, ref_template=_REF)[1]
            _, problem = models_json_schema(
                [(schemas.Problem, "serialization")], ref_template=_REF.replace("name", "model")
            )
            components |= problem["$defs"]
        assert app.openapi_schema is not None  # noqa: S101 - FastAPI has just set it
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
