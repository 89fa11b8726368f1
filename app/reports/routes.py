"""The HTTP side of reports."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from types import TracebackType
from typing import assert_never
from urllib.parse import urlsplit

from quart import Blueprint, Response, request
from quart.wrappers.response import ResponseBody

from app.errors import NotFound, PreconditionFailed, RangeNotSatisfiable
from app.flow.request import current_request
from app.http.conditions import Verdict, evaluate, range_applies
from app.http.dates import format_date
from app.http.media import content_disposition
from app.http.ranges import Part, Selection, Unsatisfiable, Whole, select
from app.reports.service import Report, Reports
from app.storage.blobs import Blob


def reports_blueprint(reports: Reports) -> Blueprint:
    """The routes under ``/api/report``."""
    blueprint = Blueprint("reports", __name__)

    @blueprint.get("/api/report/<any_text:user_id>")
    async def report(user_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        """The user's newest report; conditions and one byte range are honoured."""
        # The path that Quart routes by is decoded already: a %2F is part of a user id (a bad one), a slash is not.
        if _path_of(request.scope["raw_path"]).count(b"/") != 3:
            raise NotFound(f"there is nothing at {request.path}")
        opened = await reports.open(user_id)
        current_request.get().resources.callback(opened.blob.close)
        return _answer(opened)

    return blueprint


def _path_of(target: bytes) -> bytes:
    """The path of a request target, also of one in absolute form (RFC 9112 3.2.2)."""
    return target if target.startswith(b"/") else urlsplit(target).path


def _answer(report: Report) -> Response:
    """The answer to the current GET or HEAD."""
    fields = {name.lower(): ", ".join(request.headers.getlist(name)) for name in request.headers.keys()}  # noqa: SIM118
    match evaluate(fields, report.validators):
        case Verdict.FAILED:
            raise PreconditionFailed("the report is not, or no longer, the one that the request's conditions name")
        case Verdict.NOT_MODIFIED:
            response = Response(b"", status=304)  # without a body Quart iterates over nothing, by asyncio
            del response.headers["content-type"], response.headers["content-length"]
            response.headers.extend(_validator_fields(report))
            return response
        case Verdict.PROCEED:
            return _content(report, _selected(report, fields))


def _selected(report: Report, fields: dict[str, str]) -> Selection:
    # Range is defined for GET only (RFC 9110 14.2); a HEAD ignores it.
    if request.method != "GET" or not range_applies(fields.get("if-range"), report.validators):
        return Whole()
    return select(fields.get("range"), report.blob.size)


def _content(report: Report, selection: Selection) -> Response:
    match selection:
        case Whole():
            response = _body(report.blob, 0, report.blob.size)
        case Part(start, stop):
            response = _body(report.blob, start, stop)
            response.status_code = 206
            response.headers["content-range"] = selection.content_range
        case Unsatisfiable(size):
            raise RangeNotSatisfiable(
                f"the report has {size} bytes", headers={"content-range": selection.content_range}
            )
        case _:
            assert_never(selection)
    response.headers["content-type"] = report.media_type
    response.headers["content-disposition"] = content_disposition(report.user_id, report.media_type)
    response.headers["accept-ranges"] = "bytes"
    response.headers["x-content-type-options"] = "nosniff"
    response.headers.extend(_validator_fields(report))
    return response


def _validator_fields(report: Report) -> dict[str, str]:
    modified = min(report.validators.modified, int(time.time()))  # never later than Date (RFC 9110 8.8.2.1)
    return {
        "etag": report.validators.tag,
        "last-modified": format_date(modified),
        # A report is one user's, and may be replaced at any moment: only its own user keeps it, and asks each time.
        "cache-control": "private, no-cache",
    }


def _body(blob: Blob, start: int, stop: int) -> Response:
    """A response with bytes ``start`` up to ``stop`` of ``blob``; none of them are read for a HEAD."""
    if request.method == "HEAD":
        response = Response(b"")
    elif stop <= len(blob.head):
        response = Response(blob.head[start:stop])
    else:
        response = Response(b"")
        response.response = _BlobBody(blob, start, stop)
    response.headers["content-length"] = str(stop - start)
    return response


class _BlobBody(ResponseBody):
    """A part of a blob as a response body, chunk by chunk as the client takes it."""

    def __init__(self, blob: Blob, start: int, stop: int) -> None:
        self._closing = aclosing(blob.read(start, stop))

    async def __aenter__(self) -> _BlobBody:
        self._chunks = await self._closing.__aenter__()
        return self

    async def __aexit__(self, exc_type: type[BaseException], exc_value: BaseException, tb: TracebackType) -> None:
        await self._closing.__aexit__(exc_type, exc_value, tb)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks
