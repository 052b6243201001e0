"""The Python client of the HTTP API, sync and async.

    with Client("http://127.0.0.1:8000") as api:
        answer = api.recommend("196", k=10)
        api.send([api.outcome("click", answer, 0)])

Requests without an answer (no connection, timeout, 429, 502, 503, 504) are retried with exponential backoff and jitter,
or after the seconds in Retry-After. Retries are safe: ids of events and requests and idempotency keys of catalogue
changes are chosen before the first attempt, and the API applies each once.
"""

from recsys.client.clients import AsyncClient, Client
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
from recsys.client.retry import Retry

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
