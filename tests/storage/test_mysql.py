"""The pool over a real server: what the server itself sees of cancelled queries, limits and recycled connections."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

import app.storage.mysql
from app.errors import DatabaseUnavailable, QueryFailed
from app.settings import DatabaseSettings
from app.storage.mysql import MysqlDatabase, open_mysql
from app.storage.mysql_connection import MysqlConnection
from tests.mariadb import MariaDb

_ASK = "SELECT a FROM things"
_NUMBERS = "SELECT seq FROM seq_1_to_1000000000"


@pytest.fixture
async def mysql(mysql_settings: DatabaseSettings) -> AsyncIterator[MysqlDatabase]:
    async with open_mysql(mysql_settings) as opened:
        await opened.execute("CREATE TABLE things (a BIGINT PRIMARY KEY)")
        await opened.execute("INSERT INTO things (a) VALUES (1)")
        yield opened


@contextmanager
def _locked(mariadb: MariaDb, settings: DatabaseSettings) -> Generator[None]:
    """Another connection holds the table, so that whoever reads it waits."""
    with mariadb.connect(settings.name) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLES things WRITE")
        yield


async def _until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not condition():  # noqa: ASYNC110 - what changes it has no event for us
            await trio.sleep(0.01)


def _connections(mariadb: MariaDb, settings: DatabaseSettings) -> int:
    """How many connections of ours the server has."""
    sql = "SELECT count(*) FROM information_schema.processlist WHERE user = %s"
    return mariadb.query(sql, (settings.user,))[0][0]


def _sockets() -> int:
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(str(link.readlink()).startswith("socket:") for link in links)


# -- cancelled queries -------------------------------------------------------------------------------------------------


async def _fetch(mysql: MysqlDatabase) -> None:
    await mysql.fetch(_ASK)


async def _stream(mysql: MysqlDatabase) -> None:
    async with mysql.stream(_ASK) as stream:
        await anext(stream)


async def _transaction(mysql: MysqlDatabase) -> None:
    async with mysql.transaction() as transaction:
        await transaction.fetch(_ASK)


@pytest.mark.parametrize("operation", [_fetch, _stream, _transaction])
async def test_a_cancelled_query_is_ended_on_the_server(
    mysql: MysqlDatabase,
    mysql_settings: DatabaseSettings,
    mariadb: MariaDb,
    operation: Callable[[MysqlDatabase], Awaitable[None]],
) -> None:
    kills = mariadb.status("Com_kill")
    with _locked(mariadb, mysql_settings):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(operation, mysql)
            await _until(lambda: mariadb.processes(f"{_ASK}%") != [])
            nursery.cancel_scope.cancel()
        # Here the lock is still held: nothing but the kill ends the statement.
        await _until(lambda: mariadb.processes(f"{_ASK}%") == [])
        await _until(lambda: _connections(mariadb, mysql_settings) == 0)
        assert mariadb.status("Com_kill") == kills + 1
    state = mysql.statistics()
    assert (state.open, state.discarded, state.killed) == (0, 1, 1)
    assert await mysql.fetch(_ASK) == [(1,)]


async def test_a_burst_of_cancelled_queries_is_ended_by_one_connection_more(
    mysql: MysqlDatabase, mysql_settings: DatabaseSettings, mariadb: MariaDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep = "SELECT SLEEP(600)"
    connect, spare = mysql._killer._connect, list[MysqlConnection]()

    async def counted() -> MysqlConnection:
        spare.append(await connect())
        return spare[-1]

    monkeypatch.setattr(mysql._killer, "_connect", counted)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(mysql.fetch, sleep)
        await _until(lambda: len(mariadb.processes(f"{sleep}%")) == 20)
        nursery.cancel_scope.cancel()
    await _until(lambda: mariadb.processes(f"{sleep}%") == [])
    await _until(lambda: _connections(mariadb, mysql_settings) == 0)
    assert mysql.statistics().killed == 20
    assert len(spare) == 1


async def test_leaving_a_stream_ends_its_query_on_the_server(
    mysql: MysqlDatabase, mysql_settings: DatabaseSettings, mariadb: MariaDb
) -> None:
    async with mysql.stream(_NUMBERS, batch=10) as stream:
        assert len(await anext(stream)) == 10
        assert len(mariadb.processes(f"{_NUMBERS}%")) == 1
    await _until(lambda: mariadb.processes(f"{_NUMBERS}%") == [])
    assert mysql.statistics().killed == 1
    assert _connections(mariadb, mysql_settings) <= 1


async def test_an_error_of_the_stream_s_reader_does_not_keep_its_query_alive(mysql: MysqlDatabase) -> None:
    with pytest.raises(DatabaseUnavailable):
        async with mysql.stream(_NUMBERS, batch=10) as stream:
            await anext(stream)
            raise DatabaseUnavailable("another database, which the reader asked meanwhile")
    assert mysql.statistics().killed == 1


async def test_a_kill_that_gets_no_answer_is_given_up(
    mysql: MysqlDatabase, monkeypatch: pytest.MonkeyPatch, mariadb: MariaDb
) -> None:
    async def never(*_: object) -> MysqlConnection:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(mysql._killer, "_connect", never)
    monkeypatch.setattr(app.storage.mysql, "_KILL_SECONDS", 0.1)
    with trio.fail_after(20), trio.move_on_after(0.1):
        await mysql.fetch("SELECT SLEEP(30)")
    assert (mysql.statistics().killed, mysql.statistics().open) == (0, 0)
    await mysql.ping()
    for number in mariadb.processes("SELECT SLEEP(30)%"):
        mariadb.query(f"KILL {number}")


async def test_a_cancelled_query_leaves_no_socket_open(mysql: MysqlDatabase) -> None:
    await mysql.ping()
    before = _sockets()
    for _ in range(5):
        with trio.move_on_after(0.05):
            await mysql.fetch("SELECT SLEEP(600)")
    await mysql.ping()
    assert _sockets() == before


# -- the pool's bound --------------------------------------------------------------------------------------------------


async def test_fifty_queries_at_once_use_no_more_connections_than_the_pool_has(
    mysql_settings: DatabaseSettings, mariadb: MariaDb
) -> None:
    async with open_mysql(replace(mysql_settings, pool=5)) as mysql:
        await _until(lambda: mariadb.status("Threads_connected") == 2)  # the one that looks, and ours
        mariadb.query("FLUSH STATUS")
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(mysql.fetch, "SELECT SLEEP(0.02)")
        assert mysql.statistics().opened == 5
        assert 5 <= mariadb.status("Max_used_connections") <= 6  # with the one that looks


async def test_connections_are_opened_when_they_are_needed(
    mysql: MysqlDatabase, mysql_settings: DatabaseSettings, mariadb: MariaDb
) -> None:
    for _ in range(10):
        await mysql.ping()
    assert _connections(mariadb, mysql_settings) == mysql.statistics().opened == 1


async def test_a_connection_that_is_being_closed_still_counts(
    mysql_settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise there would be one more than the pool's size while the reaper says goodbye to it."""
    goodbye, closing = trio.Event(), trio.Event()
    close = MysqlConnection.aclose

    async def slow(connection: MysqlConnection) -> None:
        closing.set()
        await goodbye.wait()
        await close(connection)

    monkeypatch.setattr(app.storage.mysql, "_IDLE_SECONDS", 0.0)
    monkeypatch.setattr(app.storage.mysql, "_REAP_SECONDS", 0.01)
    async with open_mysql(replace(mysql_settings, pool=1)) as mysql:
        monkeypatch.setattr(MysqlConnection, "aclose", slow)
        with trio.fail_after(30):
            await closing.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mysql.ping)
            await trio.sleep(0.2)
            opened = mysql.statistics().open
            goodbye.set()
        assert opened <= 1


async def test_the_reaper_leaves_alone_what_a_caller_is_about_to_take(
    mysql_settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller with the last permit would else open one more, and a close in between would leave the first behind."""
    monkeypatch.setattr(app.storage.mysql, "_IDLE_SECONDS", 0.0)
    monkeypatch.setattr(app.storage.mysql, "_REAP_SECONDS", 0.05)
    async with open_mysql(replace(mysql_settings, pool=1)) as mysql:
        mysql._permits.acquire_nowait()  # as a caller does before it looks for an idle connection
        await trio.sleep(0.3)
        idle = mysql.statistics().idle
    assert mysql.statistics().open == 0
    assert idle == 1


# -- recycling ---------------------------------------------------------------------------------------------------------


async def test_an_idle_connection_is_closed_after_a_while(
    mysql_settings: DatabaseSettings, mariadb: MariaDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.storage.mysql, "_IDLE_SECONDS", 0.0)
    monkeypatch.setattr(app.storage.mysql, "_REAP_SECONDS", 0.01)
    async with open_mysql(mysql_settings) as mysql:
        await _until(lambda: mysql.statistics().open == 0)
        await _until(lambda: _connections(mariadb, mysql_settings) == 0)
        assert mysql.statistics().discarded == 0
        await mysql.ping()


async def test_an_old_connection_is_not_used_again(
    mysql: MysqlDatabase, mysql_settings: DatabaseSettings, mariadb: MariaDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.storage.mysql, "_AGE_SECONDS", 0.0)
    before = mysql.statistics().opened
    for _ in range(3):
        await mysql.ping()
    after = mysql.statistics()
    assert (after.opened, after.open, after.discarded) == (before + 2, 0, 0)
    await _until(lambda: _connections(mariadb, mysql_settings) == 0)


async def test_a_connection_that_the_server_closed_meanwhile_is_replaced_unnoticed(
    mysql: MysqlDatabase, mariadb: MariaDb
) -> None:
    ((number,),) = await mysql.fetch("SELECT CONNECTION_ID()")
    mariadb.query(f"KILL {number}")
    await _until(lambda: not any(connection.is_alive() for _, connection in mysql._idle))
    assert await mysql.fetch(_ASK) == [(1,)]
    assert mysql.statistics().discarded == 1


async def test_a_connection_lost_in_the_middle_is_told_and_replaced(mysql: MysqlDatabase, mariadb: MariaDb) -> None:
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def ask() -> None:
            with pytest.raises(DatabaseUnavailable) as caught:
                await mysql.fetch("SELECT SLEEP(600)")
            assert caught.value.retry_after

        await _until(lambda: mariadb.processes("SELECT SLEEP(600)%") != [])
        mariadb.query(f"KILL {mariadb.processes('SELECT SLEEP(600)%')[0]}")
    await mysql.ping()
    assert (mysql.statistics().discarded, mysql.statistics().killed) == (1, 0)


@asynccontextmanager
async def _row_locked(mysql: MysqlDatabase) -> AsyncGenerator[None]:
    async with mysql.transaction() as transaction:
        await transaction.execute("UPDATE things SET a = 2 WHERE a = 1")
        yield


async def test_a_lock_that_is_held_elsewhere_is_a_matter_of_time_and_rolls_back(mysql: MysqlDatabase) -> None:
    async with _row_locked(mysql):
        with pytest.raises(DatabaseUnavailable) as caught:
            async with mysql.transaction() as transaction:
                await transaction.execute("INSERT INTO things (a) VALUES (3)")
                await transaction.fetch("SELECT a FROM things WHERE a = 1 FOR UPDATE NOWAIT")
        assert caught.value.retry_after
    assert await mysql.fetch(_ASK) == [(2,)]


async def test_a_refused_kill_is_no_error(mysql: MysqlDatabase) -> None:
    await mysql._killer.end_query(2**31)
    assert mysql.statistics().killed == 0
    with pytest.raises(QueryFailed):
        await mysql.execute(f"KILL QUERY {2**31}")


# -- closing -----------------------------------------------------------------------------------------------------------


async def test_closing_leaves_nothing_on_either_side(mysql_settings: DatabaseSettings, mariadb: MariaDb) -> None:
    before = _sockets()
    async with open_mysql(mysql_settings) as mysql, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(mysql.fetch, "SELECT SLEEP(0.01)")
    assert mysql.statistics().open == 0
    assert _sockets() == before
    await _until(lambda: _connections(mariadb, mysql_settings) == 0)


async def test_who_still_works_at_the_close_leaves_nothing_either(
    mysql_settings: DatabaseSettings, nursery: trio.Nursery
) -> None:
    before = _sockets()
    working, closed, done = trio.Event(), trio.Event(), trio.Event()

    async def work(mysql: MysqlDatabase) -> None:
        async with mysql.transaction():
            working.set()
            await closed.wait()
        done.set()

    async with open_mysql(mysql_settings) as mysql:
        nursery.start_soon(work, mysql)
        await working.wait()
    closed.set()
    await done.wait()
    assert mysql.statistics().open == 0
    assert _sockets() == before


async def test_a_spare_connection_that_broke_is_not_used_for_the_next_query(
    mysql: MysqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, opened = mysql._killer._connect, 0

    async def first_breaks() -> MysqlConnection:
        nonlocal opened
        opened += 1
        connection = await connect()
        if opened == 1:
            await connection._stream.aclose()
        return connection

    monkeypatch.setattr(mysql._killer, "_connect", first_breaks)
    with trio.move_on_after(0.5):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(mysql.fetch, "SELECT SLEEP(600)")
    assert mysql.statistics().killed == 3
