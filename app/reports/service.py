"""The use cases of reports: open one, store one."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

import structlog

from app.errors import DatabaseUnavailable, QueryFailed, ReportNotFound, ReportUnreadable
from app.http.conditions import Validators
from app.http.media import extension_of, media_type_of
from app.reports.catalogue import Catalogue, Entry, Replaced, TooEarly
from app.reports.user_ids import check_user_id
from app.storage.blobs import BlobUnreadable, LocalBlobs, StoredBlob
from app.storage.open_files import Blob

_log = structlog.get_logger()

_SECOND_NS = 10**9
_TRIES = 5


@dataclass(slots=True)
class Report:
    """A user's newest report, open. Whoever got it closes ``blob``."""

    user_id: str
    media_type: str
    validators: Validators
    blob: Blob


class Reports:
    """Reports of users, over a catalogue of rows and a folder of files."""

    def __init__(self, catalogue: Catalogue, blobs: LocalBlobs) -> None:
        self._catalogue = catalogue
        self._blobs = blobs

    def find(self, user_id: str) -> Awaitable[Entry | None]:
        """*Errors*: BadUserId, DatabaseUnavailable."""
        return self._catalogue.find(check_user_id(user_id))

    async def open(self, user_id: str) -> Report:
        """*Errors*: BadUserId, ReportNotFound, ReportUnreadable, DatabaseUnavailable."""
        entry = await self._entry(user_id)
        while True:
            try:
                blob = self._blobs.open_nowait(entry.path, fixed=entry.digest is not None)
                blob = blob or await self._blobs.open(entry.path)
                return _report(entry, blob)
            except BlobUnreadable as error:
                # Perhaps it was replaced, and its file removed, between the row and the file.
                newer = await self._entry(user_id)
                if not error.gone or newer.path == entry.path:
                    raise ReportUnreadable("the report's file cannot be read", internal=str(error)) from error
                entry = newer

    async def store(self, user_id: str, source: BinaryIO, media_type: str | None, *, name: str, head: bytes) -> Entry:
        """Stores ``source`` as the newest report of ``user_id``.

        media_type: by default what ``name`` or ``head``, its first bytes, say.

        The file and the row are not atomic. What a crash leaves after each step:
        1. a temporary file is written and synced: the old report; a file in the folder of incoming ones that no row
           names.
        2. it is renamed to its own, never used name: the old report; a file that no row names.
        3. the row is committed: the new report; the old file, which no row names.
        4. the old file is removed, if we had stored it. Who is reading it has it open and gets it whole.

        *Errors*: BadUserId, OSError (disk full), DatabaseUnavailable; the old report stays.
        """
        check_user_id(user_id)
        kind = media_type or media_type_of(name, head)
        blob = await self._blobs.store(source, suffix=extension_of(kind))
        try:
            replaced = await self._replace(user_id, blob, kind)
        except QueryFailed:
            # Only here it is certain that no row names the file; a commit whose answer was lost may have been done.
            await self._blobs.remove(blob.path)
            raise
        previous = replaced.previous
        if previous is not None and previous.digest is not None and previous.path != blob.path:
            await self._blobs.remove(previous.path)
        return replaced.entry

    async def _entry(self, user_id: str) -> Entry:
        entry = await self.find(user_id)
        if entry is None:
            raise ReportNotFound(f"there is no report for user {user_id!r}")
        return entry

    async def _replace(self, user_id: str, blob: StoredBlob, media_type: str) -> Replaced:
        """Tries again where another writer of the same report came in between, or made the database refuse for now."""
        tries_left = _TRIES
        while True:
            try:
                match await self._catalogue.replace(user_id, blob, media_type):
                    case Replaced() as replaced:
                        return replaced
                    case TooEarly(not_before_ns):  # which means that the other one got on
                        blob = await self._blobs.redate(blob, not_before_ns)
            except DatabaseUnavailable as error:
                tries_left -= 1
                if not tries_left:
                    raise
                _log.info("storing a report is tried again", user_id=user_id, reason=error.internal)


@lru_cache(maxsize=1024)
def entity_tag(digest: str, media_type: str) -> str:
    """The strong tag of a stored report: it changes with the bytes, and with what they are said to be."""
    return f'"{hashlib.sha256(f"{digest} {media_type}".encode()).hexdigest()[:32]}"'


@lru_cache(maxsize=1024)
def _file_tag(identity: tuple[int, ...], media_type: str) -> str:
    """The strong tag of a file that others write: it changes with all that the file system says of it."""
    return f'"f-{hashlib.sha256(repr((identity, media_type)).encode()).hexdigest()[:32]}"'


def _report(entry: Entry, blob: Blob) -> Report:
    media_type = entry.media_type or media_type_of(entry.path, blob.head)
    seconds = blob.modified_ns // _SECOND_NS
    as_stored = entry.digest is not None and (entry.size, entry.modified_ns) == (blob.size, blob.modified_ns)
    if as_stored and entry.digest is not None:
        # Each version of ours is modified in a later second than the one before it, so its date is a strong validator
        # (RFC 9110 8.8.2.2) once that second has begun.
        validators = Validators(entity_tag(entry.digest, media_type), seconds, seconds <= time.time())
    else:
        # A file that others write: its date is strong when its second has passed.
        validators = Validators(_file_tag(blob.identity, media_type), seconds, seconds + 1 <= time.time())
    return Report(entry.user_id, media_type, validators, blob)
