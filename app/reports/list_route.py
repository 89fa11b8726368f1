"""The HTTP side of the list of reports: a page as JSON, or all of them as NDJSON or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager

import msgspec

from app.errors import BadRequest
from app.http.answers import Answer, Fields, ShortRoute, Streamed
from app.http.negotiation import preferred
from app.http.queries import only, parse_query, whole_number
from app.reports.description import Description, describe
from app.reports.entries import Entry
from app.reports.listing import Listing, cursor_of, user_of

_LIMIT, _MOST = 100, 1000
_FORMATS = {"json": "application/json", "ndjson": "application/x-ndjson", "csv": "text/csv"}
_COLUMNS = Description.__struct_fields__
_encoder = msgspec.json.Encoder()

type Encode = Callable[[list[Entry]], bytes]


class ListedPage(msgspec.Struct):
    """next: goes into ``after=`` as it is; null at the end."""

    reports: list[Description]
    next: str | None


def list_route(listing: Listing) -> ShortRoute:
    """``GET /api/reports``."""

    async def reports(_method: str, _none: str, fields: Mapping[str, str], query: bytes) -> Answer:
        asked = parse_query(query)
        limit = whole_number(asked, "limit", 1, _MOST) or _LIMIT
        cursor = only(asked, "after")
        after = None if cursor is None else user_of(cursor)
        match _format(only(asked, "format"), fields.get("accept")):
            case "ndjson":
                return _streamed(listing, "application/x-ndjson", b"", _as_lines)
            case "csv":
                header = _as_csv([_COLUMNS])
                return _streamed(listing, "text/csv; charset=utf-8; header=present", header, _as_rows)
            case _:
                page = await listing.page(limit, after)
                told = ListedPage(
                    list(map(describe, page.entries)), None if page.next is None else cursor_of(page.next)
                )
                return Answer(200, _fields("application/json"), _encoder.encode(told))

    meaning = "A page of the reports that there are, by user; as NDJSON or CSV all of them."
    return ShortRoute("/api/reports", "", meaning, frozenset((b"accept",)), reports)


def _format(asked: str | None, accept: str | None) -> str:
    """One of `_FORMATS`. *Errors*: BadRequest where another one is asked for by name."""
    if asked is None:
        names = {media_type: name for name, media_type in _FORMATS.items()}
        return names[preferred(accept, tuple(names))]
    if asked not in _FORMATS:
        raise BadRequest(f"format: allowed are {', '.join(_FORMATS)}")
    return asked


def _fields(media_type: str) -> Fields:
    return [
        (b"content-type", media_type.encode()),
        (b"vary", b"accept"),
        (b"cache-control", b"private, no-cache"),
        (b"x-content-type-options", b"nosniff"),
    ]


def _streamed(listing: Listing, media_type: str, header: bytes, encode: Encode) -> Answer:
    @asynccontextmanager
    async def chunks() -> AsyncGenerator[AsyncIterator[bytes]]:
        async with listing.stream() as entries, aclosing(_encoded(entries, header, encode)) as encoded:
            yield encoded

    return Answer(200, _fields(media_type), Streamed(chunks()))


async def _encoded(entries: AsyncIterator[list[Entry]], header: bytes, encode: Encode) -> AsyncGenerator[bytes]:
    async for batch in entries:
        yield header + encode(batch)
        header = b""
    if header:
        yield header


def _as_lines(entries: list[Entry]) -> bytes:
    return _encoder.encode_lines([describe(entry) for entry in entries])


def _as_rows(entries: list[Entry]) -> bytes:
    return _as_csv([[getattr(one, name) for name in _COLUMNS] for one in map(describe, entries)])


def _as_csv(rows: list[list[object]] | list[tuple[str, ...]]) -> bytes:
    """RFC 4180; what is not known is empty."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
