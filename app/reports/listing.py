"""All reports, by user: in pages, or in one stream."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from app.errors import BadRequest
from app.reports.entries import COLUMNS, Entry, entries_of, newest
from app.storage.database import Database, Rows

# An adopted table may have rows that name no user, or no file. Asked in SQL, as a page counts rows.
_SELECT = f"SELECT {COLUMNS} FROM user_reports WHERE user_id IS NOT NULL AND report_path IS NOT NULL"  # noqa: S608
_KEYS_OF_MYSQL = (
    "SELECT index_name FROM information_schema.statistics WHERE table_schema = DATABASE()"
    " AND table_name = 'user_reports' AND non_unique = 0"
    " GROUP BY index_name HAVING count(*) = 1 AND max(lower(column_name)) = 'user_id' AND max(sub_part) IS NULL"
)


@dataclass(frozen=True)
class Page:
    """Entries by user, and the user after which the next page begins; None at the end."""

    entries: list[Entry]
    next: str | None


class Listing:
    """The newest entry of each user, in the order of the table's key.

    *Errors*: DatabaseUnavailable, QueryFailed. *Cancellation*: ends the query.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, limit: int, after: str | None) -> Page:
        """Up to ``limit`` entries after the user ``after``, or from the first one on (keyset pagination).

        A page ends with all whom an adopted table's collation takes for the last one, such as ``bob`` behind ``Bob``;
        by so many it may be longer.
        """
        rows = await self._after(after, limit + 1)
        entries = newest(rows[:limit])
        if len(rows) <= limit:
            return Page(list(entries.values()), None)
        last = list(entries)[-1]
        entries |= newest(await self._database.fetch(f"{_SELECT} AND user_id = ?", (_parameter(last),)))
        more = not newest(rows[limit:]).keys() <= entries.keys() or await self._after(last, 1)
        return Page(list(entries.values()), last if more else None)

    async def _after(self, user_id: str | None, limit: int) -> Rows:
        where, parameters = ("", ()) if user_id is None else (" AND user_id > ?", (_parameter(user_id),))
        return await self._database.fetch(f"{_SELECT}{where} ORDER BY user_id LIMIT ?", (*parameters, limit))

    @asynccontextmanager
    async def stream(self) -> AsyncGenerator[AsyncIterator[list[Entry]]]:
        """All of them, straight from the database's cursor.

        Bound: one batch is held; the database is read no faster than the batches are taken, on a connection of its own
        (`Database.stream` has how many). *Errors*: Overloaded where that many are being read.
        """
        sql = f"{_SELECT} ORDER BY {await self._exact_order()}"
        async with self._database.stream(sql) as batches, aclosing(_distinct(batches)) as entries:
            yield entries

    async def _exact_order(self) -> str:
        """Brings the rows of one user together, also where the table takes ``bob`` for ``Bob``.

        MySQL does not see that a key leaves nothing more to order, and would sort the table before the first row.
        Without one it does so anyway.
        """
        if self._database.dialect == "sqlite":
            return "user_id, user_id COLLATE BINARY"
        return "user_id" if await self._database.fetch(_KEYS_OF_MYSQL) else "user_id, BINARY user_id"


async def _distinct(batches: AsyncIterator[Rows]) -> AsyncGenerator[list[Entry]]:
    """Of several rows of one user, which an adopted table may have, the last one."""
    held: Entry | None = None
    async for rows in batches:
        ready: list[Entry] = []
        for entry in entries_of(rows):
            if held is not None and held.user_id != entry.user_id:
                ready.append(held)
            held = entry
        if ready:
            yield ready
    if held is not None:
        yield [held]


# -- where the next page begins, as clients hand it on -----------------------------------------------------------------


def cursor_of(user_id: str) -> str:
    return base64.urlsafe_b64encode(_stored(user_id)).decode().rstrip("=")


def user_of(cursor: str) -> str:
    """Whatever bytes an adopted row has. *Errors*: BadRequest where it is none of ours."""
    try:
        user_id = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError) as error:
        raise BadRequest("after: is not what a page said was next") from error
    if cursor_of(user_id) != cursor:
        raise BadRequest("after: is not what a page said was next")
    return user_id


def _parameter(user_id: str) -> str | bytes:
    """As the database takes it: bytes that are no text only as such."""
    stored = _stored(user_id)
    return user_id if stored.decode("utf-8", "replace") == user_id else stored


def _stored(user_id: str) -> bytes:
    return user_id.encode("utf-8", "surrogateescape")
