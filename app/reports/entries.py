"""Rows of reports, as values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from app.storage.database import Row
from app.storage.incoming import is_stored_path

_SECOND_NS = 10**9

COLUMNS = "user_id, report_path, media_type, size, digest, modified_ns, version"
"""In the order that `entry_of` expects."""


@dataclass(frozen=True)
class Entry:
    """A row: one version of a user's report.

    path: relative to the reports folder, or absolute inside it. The other fields are None in a row that the original
    wrote, which knew the path only. digest: SHA-256 in hex. modified_ns: since the epoch. version: counts from 1.
    """

    user_id: str
    path: str
    media_type: str | None
    size: int | None
    digest: str | None
    modified_ns: int | None
    version: int


def entry_of(row: Row) -> Entry:
    user_id, path, media_type, size, digest, modified_ns, version = row
    return Entry(
        text(user_id),  # in an adopted table it may be a number
        text(path),
        None if media_type is None else text(media_type),
        None if size is None else int(size),
        None if digest is None else text(digest),
        None if modified_ns is None else int(modified_ns),
        int(version or 1),
    )


def entries_of(rows: Iterable[Row]) -> Iterator[Entry]:
    """Without the rows of an adopted table that name no user, or no file."""
    return (entry_of(row) for row in rows if row[0] is not None and row[1] is not None)


def newest(rows: Iterable[Row]) -> dict[str, Entry]:
    """Entries by user id. An adopted table without a key may hold several rows of a user: the last one counts."""
    return {entry.user_id: entry for entry in entries_of(rows)}


def next_second(entry: Entry | None) -> int:
    """The second after that of ``entry``: two versions of one second could not be told apart by ``Last-Modified``."""
    if entry is None or entry.modified_ns is None:
        return 0
    return (entry.modified_ns // _SECOND_NS + 1) * _SECOND_NS


def expired(entries: Iterable[Entry], keep: int) -> list[Entry]:
    """All but the newest ``keep`` of a user's versions."""
    return sorted(entries, key=lambda entry: entry.version, reverse=True)[keep:]


def files_of(entries: Iterable[Entry]) -> frozenset[str]:
    """The files of ``entries`` that we have stored. The others belong to whoever wrote the row."""
    return frozenset(entry.path for entry in entries if entry.digest is not None and is_stored_path(entry.path))


def text(value: object) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
