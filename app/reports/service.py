"""The use cases of reports: open one, store one, delete one; and what a crash has left is swept."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterable, Awaitable, Collection, Mapping
from functools import lru_cache, partial

import msgspec
import structlog
import trio

from app.errors import (
    DatabaseUnavailable,
    DigestMismatch,
    InsufficientStorage,
    Overloaded,
    PreconditionFailed,
    QueryFailed,
    ReportNotFound,
    ReportUnreadable,
    SluiceError,
    VersionNotFound,
)
from app.http.conditions import Validators, permits_change
from app.http.media import extension_of, media_type_of
from app.reports.catalogue import Catalogue, Changed, Expected, Removed, Replaced, TooEarly
from app.reports.description import entity_tag
from app.reports.entries import Entry
from app.reports.user_ids import check_user_id
from app.storage.blobs import BlobUnreadable, LocalBlobs
from app.storage.incoming import StoredBlob, Upload
from app.storage.open_files import Blob

_log = structlog.get_logger()

_SECOND_NS = 10**9
_TRIES = 5
_RACE_SECONDS = 10.0
_CLEANUP_SECONDS = 10.0
_NOT_KNOWN = Validators("", 0, modified_is_strong=False)

type Conditions = Mapping[str, str]
"""Values of ``If-Match`` and so on, by lower-case name."""


class Report(msgspec.Struct):
    """One version of a user's report, open. Whoever got it closes ``blob``."""

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

    async def versions(self, user_id: str) -> list[Entry]:
        """The versions that there are, newest first. *Errors*: BadUserId, ReportNotFound, DatabaseUnavailable."""
        versions = await self._catalogue.versions(check_user_id(user_id))
        if not versions:
            raise _not_found(user_id)
        return versions

    async def open(self, user_id: str, version: int | None = None) -> Report:
        """The newest report, or that version of it.

        *Errors*: BadUserId, ReportNotFound, VersionNotFound, ReportUnreadable, DatabaseUnavailable.
        """
        if version is None:  # asked for here: a coroutine more on the way to an await is passed twice by each request
            entry = await self._catalogue.find(check_user_id(user_id))
            if entry is None:
                raise _not_found(user_id)
        else:
            entry = await self._entry(user_id, version)
        blob = self._blobs.open_nowait(entry.path, fixed=entry.digest is not None)
        while True:
            try:
                return _report(entry, blob or await self._blobs.open(entry.path))
            except BlobUnreadable as error:
                # Perhaps it was replaced, and its file removed, between the row and the file.
                newer = await self._entry(user_id, version)
                if not error.gone or newer.path == entry.path:
                    raise ReportUnreadable("the report's file cannot be read", internal=str(error)) from error
                entry = newer

    async def store(
        self,
        user_id: str,
        chunks: AsyncIterable[bytes],
        media_type: str | None = None,
        *,
        name: str = "",
        conditions: Conditions | None = None,
        digests: Collection[bytes] = (),
    ) -> Replaced:
        """Stores ``chunks`` as the newest report of ``user_id``, as they come.

        media_type: by default what ``name`` or the first bytes say. conditions: asked before anything is read, and
        again of what is then replaced. digests: each must be the SHA-256 of what came.

        The file and the row are not atomic. The file is locked until the row is committed. What a crash leaves after
        each step, until the next start sweeps it:
        1. a temporary file is written, hashed and synced: the old report; a file in the folder of incoming ones.
        2. it is renamed to its own, never used name: the old report; a file that no row names.
        3. the rows are committed, that of the newest and those of the versions: the new report, the old one among its
           versions; the file of a version that is no longer kept, which no row names.
        4. that file is removed. Who is reading it has it open and gets it whole.

        *Cancellation*: waits for the thread; the old report stays, or, once the commit was begun, either.
        *Errors*: BadUserId, PreconditionFailed, DigestMismatch, InsufficientStorage, ReportsUnwritable, Overloaded
        where others get in before for too long, DatabaseUnavailable, and those of ``chunks``; the old report stays (of
        a commit whose answer was lost, either does).
        """
        given = conditions or {}
        await self._expected(check_user_id(user_id), given)
        async with self._blobs.incoming() as upload:
            async for chunk in chunks:
                await upload.write(chunk)
            if digests:
                _compare(await upload.digest(), digests)
            kind = media_type or media_type_of(name, upload.head)
            blob = await upload.finish(extension_of(kind))
            replaced = await self._replace(user_id, blob, kind, given, upload)
        await self._remove(replaced.unnamed)
        return replaced

    async def delete(self, user_id: str, conditions: Conditions | None = None) -> None:
        """Removes all versions: first the rows, then, where a crash leaves some of them to the next sweep, the files.

        *Errors*: BadUserId, ReportNotFound, PreconditionFailed, Overloaded, DatabaseUnavailable.
        """
        race = _Race()
        removed: Removed | Changed | None = Changed()
        while isinstance(removed, Changed):
            await self._entry(user_id, None)
            expected = await self._expected(user_id, conditions or {})
            removed = await self._catalogue.remove(user_id, expected=expected)
            if isinstance(removed, Changed):
                race.lost()
        if removed is None:
            raise _not_found(user_id)
        await self._remove(removed.unnamed)

    async def sweep(self) -> None:
        """Removes the files that crashes have left behind; what keeps it from that is logged."""
        try:
            removed = await self._blobs.sweep(self._catalogue.named)
        except (SluiceError, OSError) as error:
            reason = getattr(error, "internal", None) or str(error)
            _log.warning("sweep given up", reason=reason)
        else:
            _log.info("swept", removed=removed)

    async def _remove(self, paths: Collection[str]) -> None:
        """Of files that nothing names any more, after the commit: what is left when time is up, or cannot be removed,
        is the next sweep's."""
        if paths:
            with trio.move_on_after(_CLEANUP_SECONDS, shield=True):
                for path in paths:
                    try:
                        await self._blobs.remove(path)
                    except OSError as error:
                        _log.warning("old file not removed", path=path, reason=error.strerror or str(error))

    async def _entry(self, user_id: str, version: int | None) -> Entry:
        check_user_id(user_id)
        if version is None:
            entry = await self._catalogue.find(user_id)
        else:
            entry = await self._catalogue.find_version(user_id, version)
            if entry is None and await self._catalogue.find(user_id) is not None:
                raise VersionNotFound(f"there is no version {version} of the report of user {user_id!r}")
        if entry is None:
            raise _not_found(user_id)
        return entry

    async def _expected(self, user_id: str, conditions: Conditions, own: str | None = None) -> Expected | None:
        """The entry for which the conditions hold, which they do for any, hence None, where there are none.

        own: the path of a file for which they did hold, and which may have become the entry since.
        """
        if not conditions:
            return None
        entry = await self._catalogue.find(user_id)
        if entry is not None and entry.path == own:
            return None
        if not permits_change(conditions, None if entry is None else await self._validators(entry)):
            raise PreconditionFailed("the report is not, or no longer, the one that the request's conditions name")
        return Expected(entry)

    async def _validators(self, entry: Entry) -> Validators:
        try:
            report = _report(entry, await self._blobs.open(entry.path))
        except BlobUnreadable:
            return _NOT_KNOWN  # it is there, but no tag is that of what nobody can read
        report.blob.close()
        return report.validators

    async def _replace(
        self, user_id: str, blob: StoredBlob, media_type: str, conditions: Conditions, upload: Upload
    ) -> Replaced:
        """Tries again where another writer of the same report came in between, or made the database refuse for now."""
        race = _Race()
        tries_left = _TRIES
        while True:
            in_doubt = upload.kept
            try:
                expected = await self._expected(user_id, conditions, blob.path)
                replace = partial(self._catalogue.replace, user_id, blob, media_type)
                match await replace(expected=expected, committing=upload.keep):
                    case Replaced() as replaced:
                        return replaced
                    case TooEarly(not_before_ns):  # which means that the other one got on
                        race.lost()
                        blob = await self._blobs.redate(blob, not_before_ns)
                    case Changed():  # likewise
                        race.lost()
            except (QueryFailed, InsufficientStorage):
                # Only now it is certain that no row names the file; a commit whose answer was lost may have been done.
                if not in_doubt:
                    upload.drop()
                raise
            except DatabaseUnavailable as error:
                tries_left -= 1
                if not tries_left:
                    raise
                _log.info("storing a report is tried again", user_id=user_id, reason=error.internal)


class _Race:
    """A change that others of the same report may get in before, for `_RACE_SECONDS`."""

    def __init__(self) -> None:
        self._end = trio.current_time() + _RACE_SECONDS

    def lost(self) -> None:
        """*Errors*: Overloaded, once that was for too long."""
        if trio.current_time() >= self._end:
            raise Overloaded("too many are changing the report", retry_after=1)


def _not_found(user_id: str) -> ReportNotFound:
    return ReportNotFound(f"there is no report for user {user_id!r}")


def _compare(came: bytes, digests: Collection[bytes]) -> None:
    for digest in digests:
        if digest != came:
            raise DigestMismatch(f"the bytes that came have the sha-256 {came.hex()}, not {digest.hex()}")


# The same for each request of a report: a thousand of them are kept.
_tag_of = lru_cache(maxsize=1024)(entity_tag)


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
        validators = Validators(_tag_of(entry.digest, media_type), seconds, seconds <= time.time())
    else:
        # A file that others write: its date is strong when its second has passed.
        validators = Validators(_file_tag(blob.identity, media_type), seconds, seconds + 1 <= time.time())
    return Report(entry.user_id, media_type, validators, blob)
