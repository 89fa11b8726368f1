"""Which file is whose report: the table ``user_reports``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.errors import QueryFailed
from app.storage.blobs import StoredBlob
from app.storage.database import Database, Row, Transaction
from app.storage.lookup import Lookup, LookupStatistics, open_lookup

_SECOND_NS = 10**9
_COLUMNS = "user_id, report_path, media_type, size, digest, modified_ns, version"


@dataclass(frozen=True)
class Entry:
    """A row: the user's newest report.

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


@dataclass(frozen=True)
class Replaced:
    """The new entry, and the one before it."""

    entry: Entry
    previous: Entry | None


@dataclass(frozen=True)
class TooEarly:
    """Nothing was changed: the file has to be dated at ``not_before_ns`` or later."""

    not_before_ns: int


@asynccontextmanager
async def open_catalogue(database: Database) -> AsyncGenerator[Catalogue]:
    async def find_many(user_ids: Sequence[str]) -> Mapping[str, Entry]:
        marks = ", ".join("?" * len(user_ids))
        rows = await database.fetch(f"SELECT {_COLUMNS} FROM user_reports WHERE user_id IN ({marks})", user_ids)  # noqa: S608
        return _newest(rows)

    async with open_lookup(find_many) as lookup:
        yield Catalogue(database, lookup)


class Catalogue:
    """Finds and replaces entries.

    *Errors*: DatabaseUnavailable, QueryFailed. *Cancellation*: ends the query, a shared one with its last caller.
    """

    def __init__(self, database: Database, lookup: Lookup[Entry]) -> None:
        self._database = database
        self._lookup = lookup

    def find(self, user_id: str) -> Awaitable[Entry | None]:
        return self._lookup.get(user_id)

    async def replace(self, user_id: str, blob: StoredBlob, media_type: str) -> Replaced | TooEarly:
        """Makes ``blob`` the newest report of ``user_id``, unless it is dated in the same second as the current one."""
        async with self._database.transaction() as transaction:
            previous = await self._lock(transaction, user_id)
            if blob.modified_ns < (not_before := _next_second(previous)):
                return TooEarly(not_before)
            version = 1 if previous is None else previous.version + 1
            values = (blob.path, media_type, blob.size, blob.digest, blob.modified_ns, version)
            if previous is None:
                await transaction.execute(
                    "INSERT INTO user_reports (report_path, media_type, size, digest, modified_ns, version, user_id)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (*values, user_id),
                )
            else:
                await transaction.execute(
                    "UPDATE user_reports SET report_path = ?, media_type = ?, size = ?, digest = ?, modified_ns = ?,"  # noqa: S608
                    f" version = ? WHERE {self._exactly}",
                    (*values, *self._key(user_id)),
                )
            if user_id not in await self._read(transaction, user_id):
                # An adopted column of another type would keep "07" as 7, which is another user.
                raise QueryFailed("the database cannot keep a user of that name", internal=f"user_id {user_id!r}")
        entry = Entry(user_id, blob.path, media_type, blob.size, blob.digest, blob.modified_ns, version)
        return Replaced(entry, previous)

    def lookups(self) -> LookupStatistics:
        return self._lookup.statistics()

    async def _lock(self, transaction: Transaction, user_id: str) -> Entry | None:
        """The current entry; no other transaction changes it, or adds one, until this one ends."""
        lock = " FOR UPDATE" if self._database.dialect == "mysql" else ""
        return (await self._read(transaction, user_id, lock)).get(user_id)

    async def _read(self, transaction: Transaction, user_id: str, lock: str = "") -> dict[str, Entry]:
        rows = await transaction.fetch(f"SELECT {_COLUMNS} FROM user_reports WHERE user_id = ?{lock}", (user_id,))  # noqa: S608
        return _newest(rows)

    @property
    def _exactly(self) -> str:
        # An adopted table may compare without regard to case: its "Bob" must not overwrite "bob".
        return "user_id = ? AND BINARY user_id = ?" if self._database.dialect == "mysql" else "user_id = ?"

    def _key(self, user_id: str) -> tuple[str, ...]:
        return (user_id,) * self._exactly.count("?")


def _next_second(entry: Entry | None) -> int:
    """The second after that of ``entry``: two versions of one second could not be told apart by ``Last-Modified``."""
    if entry is None or entry.modified_ns is None:
        return 0
    return (entry.modified_ns // _SECOND_NS + 1) * _SECOND_NS


def _newest(rows: Sequence[Row]) -> dict[str, Entry]:
    """Entries by user id. An adopted table without a key may hold several rows of a user: the last one counts."""
    entries = (_entry(row) for row in rows)
    return {entry.user_id: entry for entry in entries}


def _entry(row: Row) -> Entry:
    user_id, path, media_type, size, digest, modified_ns, version = row
    return Entry(
        _text(user_id),  # in an adopted table it may be a number
        _text(path),
        None if media_type is None else _text(media_type),
        None if size is None else int(size),
        None if digest is None else _text(digest),
        None if modified_ns is None else int(modified_ns),
        int(version or 1),
    )


def _text(value: object) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
