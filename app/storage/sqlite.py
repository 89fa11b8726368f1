"""The embedded database: SQLite in write-ahead mode, in bounded threads; one writer, several readers."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import trio

from app.errors import DatabaseUnavailable, DuplicateKey, InsufficientStorage, QueryFailed, StartError
from app.flow.histograms import Histogram
from app.flow.threads import ThreadPool
from app.flow.timeouts import checkpoint_if_ended
from app.storage.database import DatabaseStatistics, DatabaseTimes, Row, Rows, Scalar
from app.storage.query_spans import query_span, wait_span
from app.storage.stream_places import StreamPlaces

_READERS = 4
# How long a thread may sleep in SQLite while another process holds a lock. That sleep cannot be interrupted, so it is
# short; the waiting proper is done in Trio, where it can be cancelled.
_BUSY_SECONDS = 0.02
_LOCK_SECONDS = 30.0
_BUSY_CODES = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


@asynccontextmanager
async def open_sqlite(path: Path, threads: ThreadPool) -> AsyncGenerator[SqliteDatabase]:
    """The database at ``path``, which must exist (``python -m app migrate`` makes it).

    Errors: StartError where the file is missing or is no database.
    """
    database = SqliteDatabase(path, threads)
    await database.identify()
    if not await threads.run(path.is_file):
        raise StartError(f"the embedded database {path} does not exist: run `python -m app migrate`")
    try:
        await database.ping()
    except (DatabaseUnavailable, QueryFailed) as error:
        raise StartError(f"the embedded database {path} cannot be read: {error.internal or error.detail}") from error
    try:
        yield database
    finally:
        with trio.CancelScope(shield=True):
            await database.aclose()


class SqliteDatabase:
    """`Database` over one SQLite file.

    Bound: `_READERS` reading connections, half of them for streams, and one that writes; callers past them wait in
    order, streams are refused.
    """

    dialect: Literal["mysql", "sqlite"] = "sqlite"

    def __init__(self, path: Path, threads: ThreadPool) -> None:
        self._path = path
        self._threads = threads
        self._identity: tuple[int, int] | None = None
        self._times = DatabaseTimes()
        self._readers = _Connections(path, threads, _READERS, self._times)
        self._writer = _Connections(path, threads, 1, self._times)
        self._places = StreamPlaces(_READERS)

    async def fetch(self, sql: str, parameters: Sequence[Scalar] = ()) -> Rows:
        async with self._readers.lend() as connection:
            return await connection.fetch(sql, parameters)

    async def execute(self, sql: str, parameters: Sequence[Scalar] = ()) -> int:
        async with self.transaction() as transaction:
            return await transaction.execute(sql, parameters)

    @asynccontextmanager
    async def stream(
        self, sql: str, parameters: Sequence[Scalar] = (), *, batch: int = 500
    ) -> AsyncGenerator[AsyncIterator[Rows]]:
        with self._places.take():
            async with self._readers.lend() as connection:
                with query_span("sqlite", sql):
                    cursor = await connection.open_cursor(sql, parameters)
                    try:
                        async with aclosing(connection.batches(cursor, batch)) as batches:
                            yield batches
                    finally:
                        cursor.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[_Connection]:
        async with self._writer.lend() as connection:
            try:
                await connection.begin()
                yield connection
                await connection.call(lambda raw: raw.execute("COMMIT"))
            except BaseException:
                with trio.CancelScope(shield=True):
                    await connection.call(_roll_back)
                raise

    async def identify(self) -> None:
        """Remembers which file is to be served."""
        self._identity = await self._threads.run(partial(_identity, self._path))

    async def ping(self) -> None:
        """Also asks whether the file is still the one that is open: one that was removed would be served for ever."""
        await self.fetch("SELECT count(*) FROM sqlite_schema")
        if await self._threads.run(partial(_identity, self._path)) != self._identity:
            raise DatabaseUnavailable("the embedded database's file was removed or replaced", internal=str(self._path))

    def statistics(self) -> DatabaseStatistics:
        readers, writer = self._readers, self._writer
        return DatabaseStatistics(
            size=readers.size + writer.size,
            open=readers.opened + writer.opened,
            idle=len(readers.idle) + len(writer.idle),
            waiting=readers.waiting + writer.waiting,
            streams=self._places.taken,
            opened=readers.opened + writer.opened,
            discarded=0,
            killed=readers.interrupted + writer.interrupted,
            times=self._times,
        )

    async def aclose(self) -> None:
        await self._readers.aclose()
        await self._writer.aclose()


class _Connections:
    """At most ``size`` connections, opened when first needed and lent in order."""

    def __init__(self, path: Path, threads: ThreadPool, size: int, times: DatabaseTimes) -> None:
        self.size = size
        self.idle: list[_Connection] = []
        self.opened = 0
        self.interrupted = 0
        self._path = path
        self._threads = threads
        self._times = times
        self._permits = trio.Semaphore(size, max_value=size)
        self._closed = False

    @property
    def waiting(self) -> int:
        return self._permits.statistics().tasks_waiting

    @asynccontextmanager
    async def lend(self) -> AsyncGenerator[_Connection]:
        came = trio.current_time()
        await checkpoint_if_ended()
        try:
            self._permits.acquire_nowait()
        except trio.WouldBlock:
            with wait_span("sqlite"):
                await self._permits.acquire()
        try:
            connection = self.idle.pop() if self.idle else await self._open()
            self._times.waits.observe(trio.current_time() - came)
            try:
                yield connection
            finally:
                self.idle.append(connection)
                if self._closed:
                    with trio.CancelScope(shield=True):
                        await self.aclose()
        finally:
            self._permits.release()

    async def _open(self) -> _Connection:
        async def try_to_open() -> sqlite3.Connection | None:
            try:
                return await self._threads.run(partial(_connect, self._path))
            except sqlite3.Error as error:
                if _is_busy(error):  # the last one to close the file has it to itself for a moment
                    return None
                raise _translated(error) from error

        raw = await _when_unlocked(try_to_open)
        self.opened += 1
        return _Connection(raw, self._threads, self._times.queries, self._count_interruption)

    async def aclose(self) -> None:
        """Closes what is idle; what is lent is closed when it comes back."""
        self._closed = True
        while self.idle:
            await self._threads.run(self.idle.pop().close)

    def _count_interruption(self) -> None:
        self.interrupted += 1


class _Connection:
    """One SQLite connection, used by one task at a time; inside a transaction it is the `Transaction`."""

    def __init__(
        self, raw: sqlite3.Connection, threads: ThreadPool, times: Histogram, on_interruption: Callable[[], None]
    ) -> None:
        self._raw = raw
        self._threads = threads
        self._times = times
        self._on_interruption = on_interruption

    async def call[T](self, work: Callable[[sqlite3.Connection], T]) -> T:
        """``work(connection)`` in a thread; cancelling it interrupts the statement."""
        began = trio.current_time()
        try:
            return await self._threads.run_interruptible(partial(work, self._raw), self._raw.interrupt)
        except trio.Cancelled:
            self._on_interruption()
            raise
        except sqlite3.Error as error:
            raise _translated(error) from error
        except UnicodeEncodeError as error:
            raise QueryFailed("a text cannot be stored in the database", internal=str(error)) from error
        finally:
            self._times.observe(trio.current_time() - began)

    async def fetch(self, sql: str, parameters: Sequence[Scalar] = ()) -> Rows:
        def work(raw: sqlite3.Connection) -> Rows:
            return raw.execute(sql, tuple(parameters)).fetchall()

        with query_span("sqlite", sql):
            return await self.call(work)

    async def execute(self, sql: str, parameters: Sequence[Scalar] = ()) -> int:
        def work(raw: sqlite3.Connection) -> int:
            return raw.execute(sql, tuple(parameters)).rowcount

        with query_span("sqlite", sql):
            return await self.call(work)

    async def open_cursor(self, sql: str, parameters: Sequence[Scalar]) -> sqlite3.Cursor:
        def work(raw: sqlite3.Connection) -> sqlite3.Cursor:
            return raw.execute(sql, tuple(parameters))

        return await self.call(work)

    async def batches(self, cursor: sqlite3.Cursor, size: int) -> AsyncGenerator[Rows]:
        def work(_raw: sqlite3.Connection) -> list[Row]:
            return cursor.fetchmany(size)

        while rows := await self.call(work):
            yield rows

    async def begin(self) -> None:
        """Takes the write lock, also against other processes, waiting up to `_LOCK_SECONDS`."""
        await _when_unlocked(lambda: self.call(_try_begin))

    def close(self) -> None:
        self._raw.close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _connect(path: Path) -> sqlite3.Connection:
    # mode=rw: a file that is gone is an error, never a new and empty database.
    raw = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=rw",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        # NORMAL in write-ahead mode may lose the last commits with the machine's power; a report that was
        # acknowledged must not be lost.
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            raw.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        raw.close()
        raise
    return raw


async def _when_unlocked[T](attempt: Callable[[], Awaitable[T | None]]) -> T:
    """What ``attempt`` returns once that is not None, as it is while another process holds the file."""
    with trio.move_on_after(_LOCK_SECONDS):
        while (result := await attempt()) is None:  # noqa: ASYNC110 - the other process has no event for us
            await trio.sleep(0.01)
        return result
    raise DatabaseUnavailable("another process holds the database", retry_after=1)


def _try_begin(raw: sqlite3.Connection) -> sqlite3.Cursor | None:
    try:
        return raw.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if _is_busy(error):
            return None
        raise


def _is_busy(error: sqlite3.Error) -> bool:
    return _primary_code(error) in _BUSY_CODES


def _primary_code(error: sqlite3.Error) -> int | None:
    """SQLite's result code without what extends it; None where the module itself raised."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _roll_back(raw: sqlite3.Connection) -> None:
    if raw.in_transaction:
        raw.rollback()


def _translated(error: sqlite3.Error) -> DatabaseUnavailable | InsufficientStorage | QueryFailed:
    if _primary_code(error) == sqlite3.SQLITE_FULL:
        return InsufficientStorage("there is no room in the database", internal=str(error))
    if _primary_code(error) in _BUSY_CODES | _AWAY_CODES:
        return DatabaseUnavailable("the embedded database cannot be used now", retry_after=1, internal=str(error))
    duplicate = getattr(error, "sqlite_errorcode", None) in _DUPLICATE_CODES
    return (DuplicateKey if duplicate else QueryFailed)("the database refused a statement", internal=str(error))


_DUPLICATE_CODES = {sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE}
_AWAY_CODES = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_READONLY,
}
