"""Conditional requests (RFC 9110 13): entity tags, dates, and the order in which they are asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

import msgspec

from app.errors import BadRequest
from app.http.dates import parse_date

# entity-tag = [ weak ] opaque-tag (RFC 9110 8.8.3); a list may hold empty elements (5.6.1.2).
_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_ELEMENT = re.compile(_TAG)
# Between two tags stands a comma at least; each run of separators is taken whole, or a client could make it backtrack.
_LIST = re.compile(rf"[ \t,]*+{_TAG}(?:[ \t]*+,[ \t,]*+{_TAG})*+[ \t,]*+")


class Validators(msgspec.Struct):
    """What identifies the selected representation.

    tag: its strong entity tag, quotes included.
    modified: seconds since the epoch, as sent in ``Last-Modified``.
    modified_is_strong: whether ``modified`` is a strong validator (RFC 9110 8.8.2.2), fit for ``If-Range``.
    """

    tag: str
    modified: int
    modified_is_strong: bool


class Verdict(Enum):
    """What the preconditions of a request come to."""

    PROCEED = "proceed"
    NOT_MODIFIED = "not modified"
    FAILED = "failed"


def evaluate(headers: Mapping[str, str], current: Validators) -> Verdict:
    """The preconditions of a GET or HEAD against ``current``, in the order of RFC 9110 13.2.2.

    headers: field values by lower-case name; several fields of one name are joined by a comma.
    """
    if "if-match" in headers:
        if not matches(headers["if-match"], current.tag, weakly=False):
            return Verdict.FAILED
    elif (date := _date(headers, "if-unmodified-since")) is not None and current.modified > date:
        return Verdict.FAILED
    if "if-none-match" in headers:
        if matches(headers["if-none-match"], current.tag, weakly=True):
            return Verdict.NOT_MODIFIED
    elif (date := _date(headers, "if-modified-since")) is not None and current.modified <= date:
        return Verdict.NOT_MODIFIED
    return Verdict.PROCEED


def permits_change(headers: Mapping[str, str], current: Validators | None) -> bool:
    """Whether the preconditions of a method that changes something hold for ``current``, None where there is nothing
    yet; in the order of RFC 9110 13.2.2.

    *Errors*: BadRequest where If-None-Match is malformed, for taking it as not given might overwrite something.
    """
    if "if-match" in headers:
        if current is None or not matches(headers["if-match"], current.tag, weakly=False):
            return False
    elif (
        (date := _date(headers, "if-unmodified-since")) is not None and current is not None and current.modified > date
    ):
        return False
    if (field := headers.get("if-none-match")) is not None:
        if field.strip() != "*" and not _LIST.fullmatch(field):
            raise BadRequest("If-None-Match: is neither * nor a list of entity tags")
        return current is None or not matches(field, current.tag, weakly=True)
    return True


def range_applies(if_range: str | None, current: Validators) -> bool:
    """Whether a ``Range`` may be honoured given ``If-Range``: a strong tag, or the very date (RFC 9110 13.1.5)."""
    if if_range is None:
        return True
    value = if_range.strip()
    if _ELEMENT.fullmatch(value):
        return value == current.tag
    return current.modified_is_strong and parse_date(value) == current.modified


def matches(field: str, tag: str, *, weakly: bool) -> bool:
    """Whether an ``If-Match`` (strong comparison) or ``If-None-Match`` (weak) field value names ``tag`` or is ``*``.

    A value that is neither ``*`` nor a list of entity tags matches nothing.
    """
    if field.strip() == "*":
        return True
    if not _LIST.fullmatch(field):
        return False
    return any((given.removeprefix("W/") if weakly else given) == tag for given in _ELEMENT.findall(field))


def _date(headers: Mapping[str, str], name: str) -> int | None:
    value = headers.get(name)
    return None if value is None else parse_date(value)
