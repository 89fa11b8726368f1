"""A report that is run through steps on its way out."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterable, Callable, Mapping, Sequence

from msgspec.structs import replace

from app.errors import PreconditionFailed
from app.flow.request import current_request
from app.http.answers import Answer
from app.http.conditions import Validators, Verdict, evaluate
from app.http.media import content_disposition
from app.reports.fields import validator_fields
from app.reports.service import Report

type Transforming = Callable[[Sequence[str], str, AsyncIterable[bytes]], Answer]
"""What is needed of transforms: the names of steps, the media type of what is stored, and its bytes, to an answer that
says what comes out. *Errors*: those of bad steps."""


def transformed(report: Report, asked: Sequence[str], fields: Mapping[str, str], transforming: Transforming) -> Answer:
    """The answer of ``report`` run through the steps ``asked`` for. Its blob is closed with the request.

    It has an entity tag of its own, as it is another representation (RFC 9110 8.8.3), and no ranges: bytes that are
    made while they are sent cannot be taken up in the middle.
    """
    current_request.get().resources.callback(report.blob.close)
    answer = transforming(asked, report.media_type, report.blob.pieces(0, report.blob.size))
    validators = replace(report.validators, tag=_tag(report.validators, asked))
    match evaluate(fields, validators):
        case Verdict.FAILED:
            raise PreconditionFailed("the report is not, or no longer, the one that the request's conditions name")
        case Verdict.NOT_MODIFIED:
            return Answer(304, validator_fields(validators))
        case Verdict.PROCEED:
            media_type = dict(answer.headers)[b"content-type"].decode("latin-1")
            disposition = (b"content-disposition", content_disposition(report.user_id, media_type).encode("latin-1"))
            said = (disposition, (b"accept-ranges", b"none"), *validator_fields(validators))
            return replace(answer, headers=[*answer.headers, *said])


def _tag(validators: Validators, asked: Sequence[str]) -> str:
    return f'"t-{hashlib.sha256(repr((validators.tag, tuple(asked))).encode()).hexdigest()[:32]}"'
