"""The Python client of the HTTP API, sync and async.

    with Client("http://127.0.0.1:8000") as api:
        answer = api.recommend("196", k=10)
        api.send([api.event("click", "196", answer.items[0].item_id, request_id=answer.request_id, position=0)])

Requests that could not be answered (no connection, timeout, 429, 502, 503, 504) are sent again with exponential
backoff and jitter, or after the seconds in Retry-After. That is safe for every call here: events, requests and changes
of items carry ids that are made before the first try; the platform applies each event id once, and a change of items
under one idempotency key once.
"""

from recsys.client.aio import AsyncClient
from recsys.client.calls import Retry
from recsys.client.models import (
    ApiError,
    BatchAnswer,
    EventResult,
    EventResults,
    RankedItem,
    Ranking,
    Recommendations,
    RecommendedItem,
    SimilarItem,
)
from recsys.client.sync import Client

__all__ = [
    "ApiError",
    "AsyncClient",
    "BatchAnswer",
    "Client",
    "EventResult",
    "EventResults",
    "RankedItem",
    "Ranking",
    "Recommendations",
    "RecommendedItem",
    "Retry",
    "SimilarItem",
]
