"""What the span of a request says of it, by OpenTelemetry's semantic conventions for HTTP servers."""

from __future__ import annotations

from app.errors import SluiceError
from app.flow.spans import Span
from app.wire.asgi import ROUTE, Scope

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"))
_MOST_PATH = 512


def end_request_span(
    span: Span,
    scope: Scope,
    *,
    method: str,
    status: int | None,
    outcome: str,
    request_id: str,
    error: SluiceError | None,
    cancelled_by: str | None,
) -> None:
    """Names ``span`` by method and route, and ends it.

    It is an error where the server is to blame, and also where it ended the request: not where its client left, or
    asked for what there is not.
    """
    known, route = method in _METHODS, scope.get(ROUTE)
    named = method if known else "HTTP"
    span.name = named if route is None else f"{named} {route}"
    said = span.attributes
    said["http.request.method"] = method if known else "_OTHER"
    if route is not None:
        said["http.route"] = route
    said["url.path"] = scope["path"][:_MOST_PATH]
    said["url.scheme"] = scope.get("scheme", "http")
    said["network.protocol.version"] = scope["http_version"]
    if client := scope.get("client"):
        said["client.address"] = client[0]
    if status is not None:
        said["http.response.status_code"] = status
    said["sluice.request_id"] = request_id
    said["sluice.outcome"] = outcome
    if cancelled_by is not None:
        span.cancelled_by(cancelled_by)
    if kind := _fault(status, outcome, error):
        span.failed(kind)
    span.end()


def _fault(status: int | None, outcome: str, error: SluiceError | None) -> str | None:
    """What went wrong on our side, by its name."""
    if outcome in {"ok", "client_error", "disconnected"}:
        return None
    if error is not None and error.status >= 500:
        return error.name
    return str(status) if outcome == "error" and status and status >= 500 else outcome
