"""Problem documents (RFC 9457): the one shape of every error answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

from app.errors import SluiceError

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True)
class Problem:
    """An error answer, ready to be sent: status, headers without ``Content-Length``, and the JSON body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def problem(error: SluiceError, request_id: str) -> Problem:
    """``error`` as a problem document, with ``error`` (the title once more) for clients of the original."""
    headers = [("content-type", MEDIA_TYPE), ("cache-control", "no-store"), *error.headers.items()]
    if error.retry_after is not None:
        headers.append(("retry-after", str(max(1, math.ceil(error.retry_after)))))
    return Problem(error.status, tuple(headers), document_of(content_of(error), request_id))


def document_of(content: dict[str, object], request_id: str) -> bytes:
    """The problem document that is the answer to a request. A member of ``content`` with one of its names stays."""
    document = content.copy()
    document.setdefault("request_id", request_id)
    document.setdefault("error", content.get("title"))
    return msgspec.json.encode(document)


def content_of(error: SluiceError) -> dict[str, object]:
    """What a problem document says of ``error``, whatever request it is the answer to."""
    return {
        "type": f"urn:sluice:error:{error.name}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        **error.members,
    }
