"""The HTTP side of reports."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import assert_never

from app.errors import PreconditionFailed, RangeNotSatisfiable
from app.http.answers import Answer, Fields, FilePart, ShortRoute
from app.http.conditions import Verdict, evaluate, range_applies
from app.http.dates import format_date
from app.http.media import content_disposition
from app.http.ranges import Part, Selection, Unsatisfiable, Whole, select
from app.reports.service import Report, Reports

_FIELDS = frozenset(
    (b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range", b"range")
)


def report_route(reports: Reports) -> ShortRoute:
    """``GET /api/report/{user_id}``."""

    async def report(method: str, user_id: str, fields: Mapping[str, str]) -> Answer:
        opened = await reports.open(user_id)
        try:
            answer = _answer(method, fields, opened)
        except BaseException:
            opened.blob.close()
            raise
        if not isinstance(answer.body, FilePart):
            opened.blob.close()
        return answer

    meaning = "The user's newest report; conditions and one byte range are honoured."
    return ShortRoute("/api/report/", "user_id", meaning, _FIELDS, report)


def _answer(method: str, fields: Mapping[str, str], report: Report) -> Answer:
    if not fields:  # nearly always
        return Answer(200, _fields(report), FilePart(report.blob, 0, report.blob.size))
    match evaluate(fields, report.validators):
        case Verdict.FAILED:
            raise PreconditionFailed("the report is not, or no longer, the one that the request's conditions name")
        case Verdict.NOT_MODIFIED:
            return Answer(304, _validator_fields(report))
        case Verdict.PROCEED:
            return _content(report, _selected(method, report, fields))


def _selected(method: str, report: Report, fields: Mapping[str, str]) -> Selection:
    # Range is defined for GET only (RFC 9110 14.2); a HEAD ignores it.
    if "range" not in fields or method != "GET" or not range_applies(fields.get("if-range"), report.validators):
        return Whole()
    return select(fields["range"], report.blob.size)


def _content(report: Report, selection: Selection) -> Answer:
    fields = _fields(report)
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


def _fields(report: Report) -> Fields:
    validators = report.validators
    return _fields_of(report.user_id, report.media_type, validators.tag, _told(validators.modified))


def _validator_fields(report: Report) -> Fields:
    return _validator_fields_of(report.validators.tag, _told(report.validators.modified))


def _told(modified: int) -> int:
    """Never later than Date (RFC 9110 8.8.2.1)."""
    return min(modified, int(time.time()))


# The same for each request of a report, which is made anew for each: a thousand of them are kept.
@lru_cache(maxsize=1024)
def _fields_of(user_id: str, media_type: str, tag: str, modified: int) -> Fields:
    return (
        (b"content-type", media_type.encode("latin-1")),
        (b"content-disposition", content_disposition(user_id, media_type).encode("latin-1")),
        (b"accept-ranges", b"bytes"),
        (b"x-content-type-options", b"nosniff"),
        *_validator_fields_of(tag, modified),
    )


@lru_cache(maxsize=1024)
def _validator_fields_of(tag: str, modified: int) -> Fields:
    return (
        (b"etag", tag.encode()),
        (b"last-modified", format_date(modified).encode()),
        # A report is one user's, and may be replaced at any moment: only its own user keeps it, and asks each time.
        (b"cache-control", b"private, no-cache"),
    )
