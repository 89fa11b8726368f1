"""The contract of a database. MySQL (`app.storage.mysql`) and SQLite (`app.storage.sqlite`) keep it, and one suite
of tests holds both to it.

SQL is written once, in the subset that both understand, with ``?`` for each parameter, and no ``?`` in
literals. Where they differ, `Database.dialect` tells.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from app.flow.histograms import Histogram

type Scalar = str | int | float | bytes | None
type Row = tuple[Scalar, ...]
type Rows = list[Row]


@dataclass(frozen=True)
class DatabaseTimes:
    """In seconds. waits: from asking for a connection to having one. queries: from a statement to its answer, or its
    first rows."""

    waits: Histogram = field(default_factory=Histogram)
    queries: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True)
class DatabaseStatistics:
    """Connections of one process, and what became of them.

    size: connections at most. open: now, idle ones included. idle: open and unused. waiting: callers that wait for
    one. streams: how many of the connections streams hold. opened, discarded, killed: since the start: connections
    made, connections thrown away because they broke or their query was cancelled, and queries ended on the server;
    times: likewise.
    """

    size: int
    open: int
    idle: int
    waiting: int
    streams: int
    opened: int
    discarded: int
    killed: int
    times: DatabaseTimes


class Transaction(Protocol):
    """One transaction, which owns its connection until it ends."""

    async def fetch(self, sql: str, parameters: Sequence[Scalar] = ()) -> Rows: ...
    async def execute(self, sql: str, parameters: Sequence[Scalar] = ()) -> int: ...


class Database(Protocol):
    """Rows by SQL.

    *Cancellation*: of any call ends the statement where it runs, on the server or in its thread, before the call
    returns. Waiting for a connection is in order, and ends with the caller's deadline.
    *Errors*: DatabaseUnavailable where the database cannot be asked now, QueryFailed where it refused the statement,
    as DuplicateKey where that was the reason, InsufficientStorage where there is no room; then nothing was changed.
    """

    @property
    def dialect(self) -> Literal["mysql", "sqlite"]: ...

    async def fetch(self, sql: str, parameters: Sequence[Scalar] = ()) -> Rows:
        """All rows of a query."""
        ...

    async def execute(self, sql: str, parameters: Sequence[Scalar] = ()) -> int:
        """Runs one statement that changes rows, in a transaction of its own; the number of rows it touched."""
        ...

    def stream(
        self, sql: str, parameters: Sequence[Scalar] = (), *, batch: int = 500
    ) -> AbstractAsyncContextManager[AsyncIterator[Rows]]:
        """The rows of a query in batches of at most ``batch``, straight from a cursor.

        Bound: one batch is held; the database is read no faster than the batches are taken. Streams hold half of the
        connections at most (`StreamPlaces`). Leaving early ends the query and gives the place back.

        *Errors*: Overloaded, at once, where that many are being read.
        """
        ...

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Commits when the block ends, rolls back when it raises or is cancelled."""
        ...

    async def ping(self) -> None:
        """Asks the database for an answer, on a connection as a request would use it."""
        ...

    def statistics(self) -> DatabaseStatistics: ...
