"""All reports, by user: in pages, or in one stream."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from app.errors import BadRequest
from app.reports.entries import COLUMNS, Entry, entry_of, newest
from app.storage.database import Database, Rows

_SELECT = f"SELECT {COLUMNS} FROM user_reports"  # noqa: S608


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
        where, parameters = ("", ()) if after is None else (" WHERE user_id > ?", (after,))
        rows = await self._database.fetch(f"{_SELECT}{where} ORDER BY user_id LIMIT ?", (*parameters, limit + 1))
        entries = newest(rows[:limit])
        if len(rows) <= limit:
            return Page(list(entries.values()), None)
        last = list(entries)[-1]
        alike = await self._database.fetch(f"{_SELECT} WHERE user_id = ?", (last,))
        return Page(list((entries | newest(alike)).values()), last)

    @asynccontextmanager
    async def stream(self) -> AsyncGenerator[AsyncIterator[list[Entry]]]:
        """All of them, straight from the database's cursor.

        Bound: one batch is held; the database is read no faster than the batches are taken, on a connection of its own
        (`Database.stream` has how many). *Errors*: Overloaded where that many are being read.
        """
        async with (
            self._database.stream(f"{_SELECT} ORDER BY user_id") as batches,
            aclosing(_distinct(batches)) as entries,
        ):
            yield entries


async def _distinct(batches: AsyncIterator[Rows]) -> AsyncGenerator[list[Entry]]:
    """Of several rows of one user, which an adopted table may have, the last one."""
    held: Entry | None = None
    async for rows in batches:
        ready: list[Entry] = []
        for row in rows:
            entry = entry_of(row)
            if held is not None and held.user_id != entry.user_id:
                ready.append(held)
            held = entry
        if ready:
            yield ready
    if held is not None:
        yield [held]


# -- where the next page begins, as clients hand it on -----------------------------------------------------------------


def cursor_of(user_id: str) -> str:
    return base64.urlsafe_b64encode(user_id.encode("utf-8", "surrogateescape")).decode().rstrip("=")


def user_of(cursor: str) -> str:
    """*Errors*: BadRequest where it is none of ours."""
    try:
        user_id = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("utf-8")
    except (binascii.Error, ValueError) as error:
        raise BadRequest("after: is not what a page said was next") from error
    if cursor_of(user_id) != cursor:
        raise BadRequest("after: is not what a page said was next")
    return user_id
