"""A report in words: the JSON that says what is stored, and the entity tag of what we have stored."""

from __future__ import annotations

import hashlib
import time

import msgspec

from app.reports.entries import Entry

_SECOND_NS = 10**9


class Description(msgspec.Struct, frozen=True):
    """What is null is not known: of a row that the original wrote."""

    user_id: str
    size: int | None
    media_type: str | None
    etag: str | None
    last_modified: str | None
    version: int


def describe(entry: Entry) -> Description:
    return Description(
        user_id=_shown(entry.user_id),
        size=entry.size,
        media_type=entry.media_type,
        etag=None if entry.digest is None else entity_tag(entry.digest, entry.media_type or ""),
        last_modified=None if entry.modified_ns is None else _iso(entry.modified_ns // _SECOND_NS),
        version=entry.version,
    )


def entity_tag(digest: str, media_type: str) -> str:
    """The strong tag of a stored report: it changes with the bytes, and with what they are said to be."""
    return f'"{hashlib.sha256(f"{digest} {media_type}".encode()).hexdigest()[:32]}"'


def _iso(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _shown(user_id: str) -> str:
    """As text that can be encoded, whatever bytes an adopted row has."""
    return user_id if user_id.isascii() else user_id.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
