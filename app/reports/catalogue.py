"""Which file is whose report: each user's newest in ``user_reports``, those that are kept in ``report_versions``."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.errors import BadUserId, DuplicateKey, QueryFailed
from app.reports.entries import COLUMNS, Entry, entries_of, entry_of, expired, files_of, newest, next_second, text
from app.storage.database import Database, Scalar, Transaction
from app.storage.incoming import StoredBlob
from app.storage.lookup import Lookup, LookupStatistics, open_lookup


@dataclass(frozen=True)
class Replaced:
    """The new entry; whether the user had none before; paths of files of ours that nothing names any more."""

    entry: Entry
    created: bool
    unnamed: frozenset[str]


@dataclass(frozen=True)
class Removed:
    """There is no entry of the user any more, nor anything that names these files of ours."""

    unnamed: frozenset[str]


@dataclass(frozen=True)
class TooEarly:
    """Nothing was changed: the file has to be dated at ``not_before_ns`` or later."""

    not_before_ns: int


@dataclass(frozen=True)
class Changed:
    """Nothing was changed: the current entry is not the one that was expected, or another was written meanwhile."""


class _Outrun(Exception):
    """Another writer has recorded the same version of the same report."""


@dataclass(frozen=True)
class Expected:
    """What a change is meant for: the current entry, or that there is none."""

    entry: Entry | None


@asynccontextmanager
async def open_catalogue(database: Database, keep_versions: int) -> AsyncGenerator[Catalogue]:
    async def find_many(user_ids: Sequence[str]) -> Mapping[str, Entry]:
        marks = ", ".join("?" * len(user_ids))
        return newest(await database.fetch(f"SELECT {COLUMNS} FROM user_reports WHERE user_id IN ({marks})", user_ids))  # noqa: S608

    async with open_lookup(find_many) as lookup:
        yield Catalogue(database, lookup, keep_versions)


class Catalogue:
    """Finds, replaces and removes entries.

    find: the newest entry of a user.

    *Errors*: DatabaseUnavailable, QueryFailed. *Cancellation*: ends the query, a shared one with its last caller.
    """

    def __init__(self, database: Database, lookup: Lookup[Entry], keep_versions: int) -> None:
        self._database = database
        self._lookup = lookup
        self.find: Callable[[str], Awaitable[Entry | None]] = lookup.get
        self._keep_versions = keep_versions

    # -- finding -------------------------------------------------------------------------------------------------------

    async def find_version(self, user_id: str, version: int) -> Entry | None:
        current = await self.find(user_id)
        if current is None or current.version == version:
            return current
        sql = f"SELECT {COLUMNS} FROM report_versions WHERE user_id = ? AND version = ?"  # noqa: S608
        rows = await self._database.fetch(sql, (user_id, version))
        return entry_of(rows[0]) if rows else None

    async def versions(self, user_id: str) -> list[Entry]:
        """The newest first; none where there is no newest."""
        # In this order: what is replaced in between is then found as an earlier version, or again as the newest.
        earlier = await self._database.fetch(_HISTORY, (user_id,))
        current = await self.find(user_id)
        if current is None:
            return []
        return [current, *(entry for entry in entries_of(earlier) if entry.version != current.version)]

    async def named(self, paths: Sequence[str], settled: bool) -> set[str]:
        """Those of ``paths`` that a row names. ``settled``: once the transactions that are about to name them, or not,
        have ended, also one whose client is no longer there."""
        lock = " LOCK IN SHARE MODE" if settled and self._database.dialect == "mysql" else ""
        marks = ", ".join("?" * len(paths))
        found: set[str] = set()
        for table in ("user_reports", "report_versions"):
            sql = f"SELECT report_path FROM {table} WHERE report_path IN ({marks}){lock}"  # noqa: S608
            found |= {text(path) for (path,) in await self._database.fetch(sql, paths)}
        return found

    def lookups(self) -> LookupStatistics:
        return self._lookup.statistics()

    # -- changing ------------------------------------------------------------------------------------------------------

    async def replace(
        self,
        user_id: str,
        blob: StoredBlob,
        media_type: str,
        *,
        expected: Expected | None = None,
        committing: Callable[[], None] = lambda: None,
    ) -> Replaced | TooEarly | Changed:
        """Makes ``blob`` the newest report of ``user_id``, unless it is dated in the same second as the current one.

        expected: what must be the current entry; None for any. committing: called before the commit, after which it may
        be unknown whether the entry was replaced. Called again with the same blob, this finds out.

        A row that is there is locked. Of one that is not there MySQL would lock the gap, in which others want to insert
        theirs: of several who want to be the first of a user, the key of the versions lets one through.

        *Errors*: also BadUserId where an adopted column cannot keep ``user_id`` as it is.
        """
        there = await self.find(user_id) is not None
        try:
            async with self._database.transaction() as transaction:
                return await self._replace(
                    transaction, user_id, blob, media_type, there=there, expected=expected, committing=committing
                )
        except _Outrun:
            return Changed()

    async def _replace(
        self,
        transaction: Transaction,
        user_id: str,
        blob: StoredBlob,
        media_type: str,
        *,
        there: bool,
        expected: Expected | None,
        committing: Callable[[], None],
    ) -> Replaced | TooEarly | Changed:
        previous = await (self._lock if there else self._read)(transaction, user_id)
        if previous is not None and not there:
            return Changed()
        history = await self._history(transaction, user_id)
        known = history if previous is None else [*history, previous]
        if own := next((entry for entry in known if entry.path == blob.path), None):
            return Replaced(own, own.version == 1, frozenset())  # by an earlier commit, whose answer was lost
        if expected is not None and expected.entry != previous:
            return Changed()
        if blob.modified_ns < (not_before := max(map(next_second, known), default=0)):
            return TooEarly(not_before)
        version = max((entry.version for entry in known), default=0) + 1
        entry = Entry(user_id, blob.path, media_type, blob.size, blob.digest, blob.modified_ns, version)
        kept = await self._record(transaction, entry, previous, history)
        await self._write(transaction, entry, new=previous is None)
        committing()
        return Replaced(entry, previous is None, files_of(known) - files_of(kept))

    async def remove(self, user_id: str, *, expected: Expected | None = None) -> Removed | Changed | None:
        """Removes all versions; None where there is none."""
        async with self._database.transaction() as transaction:
            current = await self._lock(transaction, user_id)
            if current is None:
                return None
            if expected is not None and expected.entry != current:
                return Changed()
            history = await self._history(transaction, user_id)
            await transaction.execute(f"DELETE FROM user_reports WHERE {self._exactly}", self._key(user_id))  # noqa: S608
            await self._forget(transaction, history)
        return Removed(files_of([*history, current]))

    async def _write(self, transaction: Transaction, entry: Entry, *, new: bool) -> None:
        if new:
            await self._insert(transaction, entry)
        else:
            await transaction.execute(f"{_UPDATE} WHERE {self._exactly}", (*_values(entry), *self._key(entry.user_id)))
        if await self._read(transaction, entry.user_id) is None:
            # An adopted column of another type would keep "07" as 7, which is another user.
            raise _not_to_be_kept(entry.user_id, "it becomes another one")

    async def _insert(self, transaction: Transaction, entry: Entry) -> None:
        try:
            await transaction.execute(_INSERT, (*_values(entry), entry.user_id))
        except DuplicateKey as error:
            # An adopted row may be there that names no file, which is no entry.
            empty = f"{_UPDATE} WHERE {self._exactly} AND report_path IS NULL"
            if await transaction.execute(empty, (*_values(entry), *self._key(entry.user_id))):
                return
            if await self._lock(transaction, entry.user_id) is not None:
                raise _Outrun from error  # by one who keeps no versions, such as the original
            raise _not_to_be_kept(entry.user_id, error.internal) from error  # "07" beside 7, "bob" beside "Bob"
        except QueryFailed as error:
            if _OF_THE_USER.search(error.internal or ""):
                raise _not_to_be_kept(entry.user_id, error.internal) from error
            raise

    async def _record(
        self, transaction: Transaction, entry: Entry, previous: Entry | None, history: Sequence[Entry]
    ) -> list[Entry]:
        """Adds ``entry`` to the versions, and ``previous`` where it is not among them, such as one that was adopted;
        removes those past the number that is kept. Those that remain."""
        added = [entry]
        if previous is not None and previous.version not in {one.version for one in history}:
            added.insert(0, previous)
        gone = expired([*history, *added], self._keep_versions)
        try:
            for one in added:
                if one not in gone:
                    values = (one.user_id, one.version, one.path, one.media_type, one.size, one.digest, one.modified_ns)
                    await transaction.execute(_RECORD, values)
        except DuplicateKey as error:
            raise _Outrun from error
        await self._forget(transaction, [one for one in gone if one in history])
        return [one for one in (*history, *added) if one not in gone]

    async def _forget(self, transaction: Transaction, versions: Sequence[Entry]) -> None:
        """By their whole keys, so that nothing but these rows is locked."""
        if versions:
            marks = ", ".join("?" * len(versions))
            sql = f"DELETE FROM report_versions WHERE user_id = ? AND version IN ({marks})"  # noqa: S608
            await transaction.execute(sql, (versions[0].user_id, *(one.version for one in versions)))

    async def _history(self, transaction: Transaction, user_id: str) -> list[Entry]:
        return list(entries_of(await transaction.fetch(_HISTORY, (user_id,))))

    async def _lock(self, transaction: Transaction, user_id: str) -> Entry | None:
        """The current entry; no other transaction changes it until this one ends."""
        return await self._read(transaction, user_id, " FOR UPDATE" if self._database.dialect == "mysql" else "")

    async def _read(self, transaction: Transaction, user_id: str, lock: str = "") -> Entry | None:
        sql = f"SELECT {COLUMNS} FROM user_reports WHERE user_id = ?{lock}"  # noqa: S608
        return newest(await transaction.fetch(sql, (user_id,))).get(user_id)

    @property
    def _exactly(self) -> str:
        # An adopted table may compare without regard to case: its "Bob" must not overwrite "bob".
        return "user_id = ? AND BINARY user_id = ?" if self._database.dialect == "mysql" else "user_id = ?"

    def _key(self, user_id: str) -> tuple[str, ...]:
        return (user_id,) * self._exactly.count("?")


def _not_to_be_kept(user_id: str, reason: str | None) -> BadUserId:
    return BadUserId("the database cannot keep a user of that name", internal=f"user_id {user_id!r}: {reason}")


def _values(entry: Entry) -> tuple[Scalar, ...]:
    return (entry.path, entry.media_type, entry.size, entry.digest, entry.modified_ns, entry.version)


# How a database says that an adopted column is of another type, or too short. SQLite names no column: only that of an
# integer key is strict.
_OF_THE_USER = re.compile(r"column \S*\buser_id\b|^datatype mismatch$")
_INSERT = (
    "INSERT INTO user_reports (report_path, media_type, size, digest, modified_ns, version, user_id)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_UPDATE = "UPDATE user_reports SET report_path = ?, media_type = ?, size = ?, digest = ?, modified_ns = ?, version = ?"
_HISTORY = f"SELECT {COLUMNS} FROM report_versions WHERE user_id = ? ORDER BY version DESC"  # noqa: S608
_RECORD = (
    "INSERT INTO report_versions (user_id, version, report_path, media_type, size, digest, modified_ns)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
