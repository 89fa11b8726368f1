"""The HTTP side of reports: they come in, they go out, they are listed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never, cast

import msgspec
from quart import Blueprint, Response, request

from app.errors import BadRequest, PreconditionFailed, RangeNotSatisfiable, UnsupportedContentEncoding
from app.http.answers import Answer, FilePart, ShortRoute
from app.http.conditions import Verdict, evaluate, range_applies
from app.http.digests import sha256_of
from app.http.fields import fields_of
from app.http.media import is_media_type
from app.http.queries import Query, parse_query, whole_number
from app.http.ranges import Part, Selection, Unsatisfiable, Whole, select
from app.reports.description import Description, describe
from app.reports.fields import report_fields, validator_fields
from app.reports.service import Report, Reports
from app.reports.transformed import Transforming, transformed

_FIELDS = frozenset(
    (b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range", b"range")
)
_CHANGE_CONDITIONS = frozenset((b"if-match", b"if-none-match", b"if-unmodified-since"))
_DIGESTS = ("content-digest", "repr-digest")
_ANNOUNCED = frozenset((b"content-type", b"content-encoding", b"content-range", b"content-digest", b"repr-digest"))
_SELECTING = ("version", "step")
_MOST_VERSION = 2**63 - 1


def report_route(reports: Reports, transforming: Transforming) -> ShortRoute:
    """``GET /api/report/{user_id}``."""

    async def report(method: str, user_id: str, fields: Mapping[str, str], query: bytes) -> Answer:
        asked: Query = parse_query(query) if query else {}
        version = whole_number(asked, "version", 1, _MOST_VERSION) if asked else None
        opened = await reports.open(user_id, version)
        if "step" in asked:
            return transformed(opened, asked["step"], fields, transforming)
        try:
            answer = _answer(method, fields, opened)
        except BaseException:
            opened.blob.close()
            raise
        if not isinstance(answer.body, FilePart):
            opened.blob.close()
        return answer

    meaning = "The user's newest report, or ?version=N of it, as it is (conditions, one range) or run through ?step=S."
    return ShortRoute("/api/report/", "user_id", meaning, _FIELDS, report)


def reports_blueprint(reports: Reports) -> Blueprint:
    blueprint = Blueprint("reports", __name__)

    @blueprint.put("/api/report/<user_id>")
    async def put_report(user_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Stores the body as the user's newest report; conditions and digests are honoured."""
        _check_whole()
        media_type, digests = _announced()
        replaced = await reports.store(
            user_id, request.body, media_type, conditions=_given(_CHANGE_CONDITIONS), digests=digests
        )
        description = describe(replaced.entry)
        response = _json(description, 201 if replaced.created else 200)
        response.headers["location"] = f"/api/report/{user_id}"
        response.headers["etag"] = description.etag or ""
        return response

    @blueprint.delete("/api/report/<user_id>")
    async def delete_report(user_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Removes all versions of the user's report; conditions are honoured."""
        _check_whole()
        await reports.delete(user_id, _given(_CHANGE_CONDITIONS))
        response = Response(b"", 204)
        del response.headers["content-type"]
        return response

    @blueprint.get("/api/report/<user_id>/versions")
    async def list_versions(user_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        """The versions of the user's report that are kept, newest first."""
        return _json(Versions(user_id, [describe(entry) for entry in await reports.versions(user_id)]))

    return blueprint


class Versions(msgspec.Struct):
    user_id: str
    versions: list[Description]


def _check_whole() -> None:
    """*Errors*: BadRequest where a change says that it is meant for a part of what there is: it would be for all."""
    asked = parse_query(request.query_string)
    for name in _SELECTING:
        if name in asked:
            raise BadRequest(f"{name}: is for GET; {request.method} is for the report as a whole")


def _announced() -> tuple[str | None, list[bytes]]:
    """The media type and the digests that a request says its body has.

    *Errors*: BadRequest, UnsupportedContentEncoding where it cannot be kept as it is said to be.
    """
    said = _given(_ANNOUNCED)
    if said.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedContentEncoding(
            "a report is stored and served as it is: without Content-Encoding", headers={"accept-encoding": "identity"}
        )
    if "content-range" in said:  # RFC 9110 14.5: part of a report must not become the whole of it
        raise BadRequest("Content-Range: a report is replaced as a whole")
    media_type = said.get("content-type")
    if media_type is not None and not is_media_type(media_type):
        raise BadRequest("Content-Type: is no media type such as application/pdf, of at most 127 characters")
    digests = [sha256_of(name.title(), said[name]) for name in _DIGESTS if name in said]
    return media_type, [digest for digest in digests if digest is not None]


def _given(names: frozenset[bytes]) -> dict[str, str]:
    return fields_of(cast("Any", request.scope)["headers"], names)


def _json(body: object, status: int = 200) -> Response:
    response = Response(msgspec.json.encode(body), status, content_type="application/json")
    response.headers["cache-control"] = "private, no-cache"
    return response


def _answer(method: str, fields: Mapping[str, str], report: Report) -> Answer:
    if not fields:  # nearly always
        return Answer(200, report_fields(report), FilePart(report.blob, 0, report.blob.size))
    match evaluate(fields, report.validators):
        case Verdict.FAILED:
            raise PreconditionFailed("the report is not, or no longer, the one that the request's conditions name")
        case Verdict.NOT_MODIFIED:
            return Answer(304, validator_fields(report.validators))
        case Verdict.PROCEED:
            return _content(report, _selected(method, report, fields))


def _selected(method: str, report: Report, fields: Mapping[str, str]) -> Selection:
    # Range is defined for GET only (RFC 9110 14.2); a HEAD ignores it.
    if "range" not in fields or method != "GET" or not range_applies(fields.get("if-range"), report.validators):
        return Whole()
    return select(fields["range"], report.blob.size)


def _content(report: Report, selection: Selection) -> Answer:
    fields = report_fields(report)
    match selection:
        case Whole():
            return Answer(200, fields, FilePart(report.blob, 0, report.blob.size))
        case Part(start, stop):
            content_range = (b"content-range", selection.content_range.encode())
            return Answer(206, [*fields, content_range], FilePart(report.blob, start, stop))
        case Unsatisfiable(size):
            raise RangeNotSatisfiable(
                f"the report has {size} bytes", headers={"content-range": selection.content_range}
            )
        case _:
            assert_never(selection)
