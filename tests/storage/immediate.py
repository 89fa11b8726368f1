"""A database that answers without a thread, so that a test may run on Trio's virtual time; and that goes away."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Literal, cast

import trio

from app.errors import DatabaseUnavailable, DuplicateKey
from app.storage.database import Database, Rows, Scalar


class Immediate:
    """SQLite, called in place.

    away: each statement fails. read_only: each that changes something does. silent: none is ever answered. lost: what
    changes something and begins so is done, but not answered.
    """

    dialect: Literal["mysql", "sqlite"] = "sqlite"

    def __init__(self, raw: sqlite3.Connection) -> None:
        self.away = self.read_only = self.silent = False
        self.lost = ""
        self._raw = raw

    async def fetch(self, sql: str, parameters: Sequence[Scalar] = ()) -> Rows:
        await self._arrive(fails=self.away)
        return self._raw.execute(sql, tuple(parameters)).fetchall()

    async def execute(self, sql: str, parameters: Sequence[Scalar] = ()) -> int:
        await self._arrive(fails=self.away or self.read_only)
        try:
            touched = self._raw.execute(sql, tuple(parameters)).rowcount
        except sqlite3.IntegrityError as error:
            raise DuplicateKey("there is one") from error
        if self.lost and sql.startswith(self.lost):
            await trio.sleep_forever()
        return touched

    async def _arrive(self, *, fails: bool) -> None:
        await trio.lowlevel.checkpoint()
        if self.silent:
            await trio.sleep_forever()
        if fails:
            raise DatabaseUnavailable("away", internal="connection lost")


def as_database(immediate: Immediate) -> Database:
    return cast("Database", immediate)
