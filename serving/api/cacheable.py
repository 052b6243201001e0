"""Answers that caches may keep: an ETag, how long, and 304 for what a client has already."""

import hashlib
from typing import Annotated, Any

from fastapi import Header
from pydantic import BaseModel
from starlette.responses import Response

from serving.api.body import JSON
from serving.api.security import Caller

# of what changes with the catalogue or a bundle: fresh for half a minute, then shown while it is fetched again
RENEWED = "max-age=30, stale-while-revalidate=600"
IMMUTABLE = "max-age=31536000, immutable"
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    304: {"description": "What the `ETag` names has not changed"}
}
IfNoneMatch = Annotated[str, Header(description="`ETag` of an earlier answer")]


def cacheable(
    caller: Caller,
    content: bytes,
    media_type: str,
    tag: str,
    lifetime: str,
    if_none_match: str,
    by_language: bool = False,
) -> Response:
    """`tag`: differs whenever the content does. `by_language`: the header `Accept-Language` decides the content, too.
    With a key the answer is `private`: a shared cache must not answer callers whom it cannot check."""
    etag = f'"{tag}"'
    headers = {
        "etag": etag,
        "cache-control": f"{'private' if caller.name else 'public'}, {lifetime}",
        # CORS answers each origin by itself
        "vary": f"origin, x-api-key, authorization{', accept-language' if by_language else ''}",
    }
    if etag in if_none_match:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)


def renewed(
    caller: Caller, content: BaseModel, bundle: str, if_none_match: str, by_language: bool = False
) -> Response:
    """JSON that a bundle and the catalogue decide. Its tag has the bundle, for people, and a digest of the content."""
    body = content.model_dump_json().encode()
    tag = f"{bundle}-{hashlib.sha256(body).hexdigest()[:16]}"
    return cacheable(caller, body, JSON, tag, RENEWED, if_none_match, by_language)
