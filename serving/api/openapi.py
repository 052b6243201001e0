"""The OpenAPI document: FastAPI's, with the hot routes added from their msgspec structs and examples."""

from typing import Any

import msgspec
from fastapi import FastAPI

from serving.api import wire

_REF = "#/components/schemas/{name}"
_PROBLEMS = {
    400: "The body is not JSON",
    401: "No valid API key",
    403: "The key lacks the scope",
    410: "The cursor is too old; begin the list anew",
    413: "The body or the batch is too large",
    422: "A field is not valid",
    429: "The key has used up its rate; retry after the seconds in Retry-After",
    503: "Nothing can be answered now; retry after the seconds in Retry-After",
}
_EXAMPLE_EVENT = {
    "type": "click",
    "user_id": "196",
    "item_id": "242",
    "request_id": "01970000-0000-7000-8000-000000000000",
}
_EXAMPLE_ANSWER = {
    "request_id": "01970000-0000-7000-8000-000000000000",
    "user_id": "196",
    "bundle": "20260101-120000",
    "arms": {"diversity": "dpp"},
    "items": [
        {
            "item_id": "50",
            "score": 0.731,
            "propensity": 1.0,
            "channels": ["two_tower", "popular"],
            "title": "Star Wars (1977)",
            "categories": ["Action", "Adventure"],
        }
    ],
    "degraded": [],
    "cached": False,
    "ms": 4.1,
}

_EXAMPLE_RANKING = {
    "request_id": "01970000-0000-7000-8000-000000000000",
    "user_id": "196",
    "bundle": "20260101-120000",
    "arms": {},
    "items": [
        {
            "item_id": "302",
            "score": 0.84,
            "scores": {"click": 0.61, "conversion": 0.22, "like": 0.05, "dwell": 1.1},
        }
    ],
    "unknown": ["377"],
    "degraded": [],
    "ms": 2.3,
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Made by the client for one request: sent again with the same body, it has one effect and gets the"
    " same answer, ids included.",
    "schema": {"type": "string", "pattern": r"^[\x21-\x7e]{1,128}$"},
}


def install(app: FastAPI) -> None:
    """Make `app.openapi()` complete. Call it after the last route was added."""
    base = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None or "x-complete" not in app.openapi_schema:
            content = base()
            _merge(content)
            content["x-complete"] = True
            app.openapi_schema = content
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _merge(content: dict[str, Any]) -> None:
    structs = (
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
    _, schemas = msgspec.json.schema_components(structs, ref_template=_REF)
    content.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
    paths = content.setdefault("paths", {})
    paths["/v1/recommendations"] = {
        "post": {
            "tags": ["recommendations"],
            "operationId": "recommend",
            "summary": "Recommend items to a user",
            "description": "The full funnel for one user. Whatever part is away is named in `degraded`.",
            "parameters": [
                {
                    "name": "explain",
                    "in": "query",
                    "description": "Add `funnel`: stages with milliseconds, channels, scores, features with age and"
                    " contribution, reasons, moves, removals.",
                    "schema": {"type": "boolean", "default": False},
                }
            ],
            "requestBody": _body(
                [wire.RecommendationRequest],
                {
                    "user": {"value": {"user_id": "196", "k": 10}},
                    "first page": {"value": {"user_id": "196", "k": 10, "cursor": ""}},
                },
            ),
            "responses": {
                "200": _answer("The list, the best item first", wire.Recommendations, _EXAMPLE_ANSWER),
                **_problems(400, 401, 403, 410, 413, 422, 429, 503),
            },
        }
    }
    paths["/v1/recommendations/batch"] = {
        "post": {
            "tags": ["recommendations"],
            "operationId": "recommendBatch",
            "summary": "Recommend items to many users",
            "description": "Each request is answered or refused on its own; all count against the rate.",
            "requestBody": _body(
                [wire.RecommendationBatch],
                {"users": {"value": {"requests": [{"user_id": "196", "k": 5}, {"user_id": "186", "k": 5}]}}},
            ),
            "responses": {
                "200": _answer(
                    "One answer for each request, in their order",
                    wire.BatchAnswers,
                    {
                        "answers": [
                            {"status": 200, "answer": _EXAMPLE_ANSWER},
                            {"status": 422, "detail": "k: 500 is more than 200"},
                        ]
                    },
                ),
                **_problems(400, 401, 403, 413, 422, 429, 503),
            },
        }
    }
    paths["/v1/rank"] = {
        "post": {
            "tags": ["recommendations"],
            "operationId": "rank",
            "summary": "Rank candidates of your own",
            "description": "All of them come back in the order of the ranker, with the score of each head; nothing is"
            " filtered or rearranged, and nothing is logged as shown.",
            "requestBody": _body(
                [wire.RankRequest],
                {"candidates": {"value": {"user_id": "196", "items": ["242", "302", "377"]}}},
            ),
            "responses": {
                "200": _answer("The candidates, the best first", wire.Ranking, _EXAMPLE_RANKING),
                **_problems(400, 401, 403, 413, 422, 429, 503),
            },
        }
    }
    paths["/v1/events"] = {
        "post": {
            "tags": ["events"],
            "operationId": "postEvents",
            "summary": "Send one event or a batch",
            "description": "202 means kept: the events reach the stream even when Kafka is away or this process dies."
            " In a batch each event is judged on its own.",
            "parameters": [_IDEMPOTENCY_KEY],
            "requestBody": _body(
                [wire.EventRequest, wire.EventBatch],
                {
                    "one": {"value": _EXAMPLE_EVENT},
                    "batch": {"value": {"events": [_EXAMPLE_EVENT, {**_EXAMPLE_EVENT, "type": "like"}]}},
                },
            ),
            "responses": {
                "202": _answer(
                    "What became of each event",
                    wire.EventResults,
                    {"accepted": 1, "rejected": 0, "results": [{"status": "accepted", "event_id": "01970…"}]},
                ),
                **_problems(400, 401, 403, 413, 422, 429, 503),
            },
        }
    }
    for path in paths.values():  # FastAPI's own shape of validation errors is not what this API sends
        for operation in path.values():
            responses = operation["responses"]
            if "422" in responses:
                responses.update(_problems(422))
            responses.setdefault("default", _problem("Any other error"))


def _body(structs: list[type[msgspec.Struct]], examples: dict[str, Any]) -> dict[str, Any]:
    references = [{"$ref": _REF.format(name=struct.__name__)} for struct in structs]
    schema = references[0] if len(references) == 1 else {"oneOf": references}
    return {"required": True, "content": {"application/json": {"schema": schema, "examples": examples}}}


def _answer(description: str, struct: type[msgspec.Struct], example: dict[str, Any]) -> dict[str, Any]:
    schema = {"$ref": _REF.format(name=struct.__name__)}
    return {
        "description": description,
        "content": {"application/json": {"schema": schema, "example": example}},
    }


def _problems(*statuses: int) -> dict[str, Any]:
    return {str(status): _problem(_PROBLEMS[status]) for status in statuses}


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": _REF.format(name="Problem")}
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}
