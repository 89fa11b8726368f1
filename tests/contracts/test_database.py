"""The contract of `app.storage.database.Database`, over each implementation."""

from __future__ import annotations

import pytest
import trio

from app.errors import QueryFailed
from app.storage.database import Database


async def test_rows_come_back_as_they_went_in(database: Database) -> None:
    await database.execute("CREATE TABLE things (a BIGINT, b VARCHAR(20), c DOUBLE PRECISION)")
    assert await database.execute("INSERT INTO things (a, b, c) VALUES (?, ?, ?)", (2**62, "naïve 100% ?", None)) == 1
    assert await database.fetch("SELECT a, b, c FROM things WHERE b = ?", ("naïve 100% ?",)) == [
        (2**62, "naïve 100% ?", None)
    ]


async def test_a_refused_statement_leaves_the_connection_of_use(database: Database) -> None:
    with pytest.raises(QueryFailed):
        await database.fetch("SELECT nothing FROM nowhere")
    before = database.statistics().opened
    await database.ping()
    assert database.statistics().opened == before


async def test_a_transaction_that_is_cancelled_is_rolled_back(database: Database) -> None:
    await database.execute("CREATE TABLE things (a BIGINT)")
    with trio.CancelScope() as scope:
        async with database.transaction() as transaction:
            await transaction.execute("INSERT INTO things (a) VALUES (?)", (1,))
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert await database.fetch("SELECT a FROM things") == []
