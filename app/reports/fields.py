"""What the header fields of an answer say of a report."""

from __future__ import annotations

import time
from functools import lru_cache

from app.http.answers import Fields
from app.http.conditions import Validators
from app.http.dates import format_date
from app.http.media import content_disposition
from app.reports.service import Report


def report_fields(report: Report) -> Fields:
    """Of the whole of it."""
    validators = report.validators
    # What is strong is not later than Date, for its second has begun.
    told = validators.modified if validators.modified_is_strong else _told(validators)
    return _fields_of(report.user_id, report.media_type, validators.tag, told)


def validator_fields(validators: Validators) -> Fields:
    """Of an answer that says only what it would be."""
    return _validator_fields_of(validators.tag, _told(validators))


def _told(validators: Validators) -> int:
    """Never later than Date (RFC 9110 8.8.2.1)."""
    return min(validators.modified, int(time.time()))


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
