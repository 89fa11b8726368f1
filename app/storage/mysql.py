"""MySQL: a pool of connections, and queries that end on the server when their caller leaves."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, Literal

import structlog
import trio

from app.errors import BACKING_OFF, DatabaseUnavailable, QueryFailed, StartError
from app.flow.spans import span
from app.flow.timeouts import checkpoint_if_ended
from app.settings import DatabaseSettings
from app.storage.backoff import Backoff
from app.storage.database import DatabaseStatistics, DatabaseTimes, Rows, Scalar
from app.storage.mysql_connection import MysqlConnection, connect, tls_context
from app.storage.query_spans import query_span, wait_span
from app.storage.stream_places import StreamPlaces

_log = structlog.get_logger()

_IDLE_SECONDS = 60.0
_AGE_SECONDS = 1800.0
_REAP_SECONDS = 5.0
_KILL_SECONDS = 2.0


@asynccontextmanager
async def open_mysql(settings: DatabaseSettings) -> AsyncGenerator[MysqlDatabase]:
    """The database that ``settings`` name, asked once; its connections are closed when the block ends.

    Errors: StartError where the server is away or refuses us, in one line for an operator.
    """
    try:
        database = MysqlDatabase(settings)
    except OSError as error:  # ssl.SSLError is one
        raise StartError(f"DB_TLS_CA: {str(settings.tls_ca)!r} is not usable: {error}") from error
    try:
        await database.ping()
    except (DatabaseUnavailable, QueryFailed) as error:
        where = f"{settings.user}@{settings.host}:{settings.port}/{settings.name}"
        raise StartError(f"the database {where} cannot be used: {error.internal or error.detail}") from error
    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.reap)
        try:
            yield database
        finally:
            with trio.CancelScope(shield=True):
                await database.aclose()
            nursery.cancel_scope.cancel()


class MysqlDatabase:
    """`Database` over a pool of at most ``settings.pool`` connections.

    Bound: the pool's size, half of it for streams, and one connection more that only ends queries. Callers past it
    wait, in order; streams are refused. A connection that broke, or whose statement was cancelled, is thrown away; one
    that is idle for `_IDLE_SECONDS` or older than `_AGE_SECONDS` is closed. While the server is away, callers fail at
    once between tries.
    """

    dialect: Literal["mysql", "sqlite"] = "mysql"

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._times = DatabaseTimes()
        self._connect = partial(connect, settings, tls_context(settings), self._times.queries)
        self._permits = trio.Semaphore(settings.pool, max_value=settings.pool)
        self._places = StreamPlaces(settings.pool)
        self._idle: deque[tuple[float, MysqlConnection]] = deque()
        self._backoff = Backoff()
        self._killer = _Killer(self._connect)
        self._closed = False
        self._open = 0
        self._opened = 0
        self._discarded = 0

    async def fetch(self, sql: str, parameters: Sequence[Scalar] = ()) -> Rows:
        async with self._lend() as connection:
            return await connection.fetch(sql, parameters)

    async def execute(self, sql: str, parameters: Sequence[Scalar] = ()) -> int:
        async with self._lend() as connection:
            return await connection.execute(sql, parameters)

    @asynccontextmanager
    async def stream(
        self, sql: str, parameters: Sequence[Scalar] = (), *, batch: int = 500
    ) -> AsyncGenerator[AsyncIterator[Rows]]:
        with self._places.take():
            async with self._lend() as connection:
                with query_span("mysql", sql):
                    fetchmany = await connection.open_cursor(sql, parameters)
                    async with aclosing(_batches(connection, fetchmany, batch)) as batches:
                        yield batches

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[MysqlConnection]:
        async with self._lend() as connection:
            await connection.execute("START TRANSACTION")
            try:
                yield connection
                await connection.execute("COMMIT")
            except BaseException:
                if not (connection.running or connection.broken):  # else it is thrown away: the server rolls back
                    with trio.move_on_after(_KILL_SECONDS, shield=True):
                        await connection.execute("ROLLBACK")
                raise

    async def ping(self) -> None:
        await self.fetch("SELECT 1")

    def statistics(self) -> DatabaseStatistics:
        return DatabaseStatistics(
            size=self._settings.pool,
            open=self._open,
            idle=len(self._idle),
            waiting=self._permits.statistics().tasks_waiting,
            streams=self._places.taken,
            opened=self._opened,
            discarded=self._discarded,
            killed=self._killer.killed,
            times=self._times,
        )

    async def reap(self) -> None:
        """Closes what has been idle for too long, for as long as it runs."""
        while True:
            await trio.sleep(_REAP_SECONDS)
            while self._idle and self._idle[0][0] < trio.current_time() - _IDLE_SECONDS:
                # With a permit: until it is closed it counts, and whoever waited for the permit may need it after all.
                async with self._permits:
                    if self._idle and self._idle[0][0] < trio.current_time() - _IDLE_SECONDS:
                        await self._close(self._idle.popleft()[1])

    async def aclose(self) -> None:
        """Closes what is idle; whoever still uses a connection closes it when giving it back."""
        self._closed = True
        async with trio.open_nursery() as nursery:
            while self._idle:
                nursery.start_soon(self._close, self._idle.pop()[1])

    @asynccontextmanager
    async def _lend(self) -> AsyncGenerator[MysqlConnection]:
        await checkpoint_if_ended()
        came = trio.current_time()
        try:
            self._permits.acquire_nowait()
        except trio.WouldBlock:
            with wait_span("mysql"):
                await self._permits.acquire()
        try:
            connection = self._take_idle() or await self._open_one()
            self._times.waits.observe(trio.current_time() - came)
            try:
                yield connection
            finally:
                if connection.running:
                    await self._discard(connection)
                elif connection.broken:
                    self._drop(connection)
                elif self._closed or trio.current_time() - connection.opened > _AGE_SECONDS:
                    await self._close(connection)
                else:
                    self._idle.append((trio.current_time(), connection))
        finally:
            self._permits.release()

    def _take_idle(self) -> MysqlConnection | None:
        """The connection used last, so that those which are not needed grow old; dead ones are dropped on the way."""
        while self._idle:
            connection = self._idle.pop()[1]
            if connection.is_alive():
                return connection
            self._drop(connection)
        return None

    async def _open_one(self) -> MysqlConnection:
        wait = self._backoff.wait(trio.current_time())
        if wait > 0:
            raise DatabaseUnavailable("the database cannot be asked now", retry_after=wait, internal=BACKING_OFF)
        self._backoff.begin()
        try:
            with span("connect", {"db.system.name": "mysql"}, "client"):
                connection = await self._connect()
        except DatabaseUnavailable as error:
            self._backoff.failed(trio.current_time())
            if self._opened:  # before, it is the start that fails, and says so
                _log.warning("database unavailable", reason=error.internal, failures=self._backoff.failures)
            raise
        except BaseException:
            self._backoff.abandoned()
            raise
        self._backoff.succeeded()
        self._open += 1
        self._opened += 1
        return connection

    async def _discard(self, connection: MysqlConnection) -> None:
        """Throws away a connection whose statement did not end, and ends that on the server first."""
        try:
            await self._killer.end_query(connection.thread_id)
        finally:
            self._drop(connection)

    def _drop(self, connection: MysqlConnection) -> None:
        connection.close()
        self._open -= 1
        self._discarded += 1

    async def _close(self, connection: MysqlConnection) -> None:
        try:
            with trio.CancelScope(shield=True):
                await connection.aclose()
        finally:
            self._open -= 1


class _Killer:
    """Ends queries on the server, over one spare connection that lives as long as there is something to end.

    Bound: one connection; whoever comes meanwhile waits for it, in order, within the same `_KILL_SECONDS`.
    """

    def __init__(self, connect: Callable[[], Awaitable[MysqlConnection]]) -> None:
        self._connect = connect
        self._turn = trio.Lock()
        self._connection: MysqlConnection | None = None
        self.killed = 0

    async def end_query(self, thread_id: int) -> None:
        """``KILL QUERY``. *Cancellation*: shielded; gives up after `_KILL_SECONDS`, which is logged, not raised."""
        with trio.move_on_after(_KILL_SECONDS, shield=True) as scope:
            async with self._turn:
                try:
                    await self._kill(thread_id)
                finally:
                    await self._release()
        if scope.cancelled_caught:
            _log.warning("query not ended on the server", thread_id=thread_id, reason="no answer in time")

    async def _kill(self, thread_id: int) -> None:
        try:
            connection = self._connection or await self._connect()
            self._connection = connection
            await connection.execute(f"KILL QUERY {thread_id:d}")
            self.killed += 1
        except QueryFailed:
            pass  # no such thread: it has ended by itself
        except DatabaseUnavailable as error:
            _log.warning("query not ended on the server", thread_id=thread_id, reason=error.internal)

    async def _release(self) -> None:
        connection = self._connection
        if connection is None:
            return
        if connection.running or connection.broken or not self._turn.statistics().tasks_waiting:
            self._connection = None
            await connection.aclose()


async def _batches(connection: MysqlConnection, fetchmany: Callable[[int], Any], size: int) -> AsyncGenerator[Rows]:
    while rows := await connection.next_batch(fetchmany, size):
        yield rows
