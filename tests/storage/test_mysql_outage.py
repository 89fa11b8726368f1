"""A MySQL that goes away and comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import trio

import app.storage.mysql
from app.errors import DatabaseUnavailable
from app.storage.mysql import MysqlDatabase, open_mysql
from tests.mariadb import MariaDb, running_mariadb


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDb]:
    """A server of our own, which others do not miss while it is away."""
    with running_mariadb() as server:
        yield server


@pytest.fixture
async def mysql(server: MariaDb) -> AsyncIterator[MysqlDatabase]:
    async with open_mysql(server.create_database(pool=5)) as opened:
        yield opened


async def _stop(server: MariaDb) -> None:
    await trio.to_thread.run_sync(server.stop)


async def _start(server: MariaDb) -> None:
    await trio.to_thread.run_sync(server.start)


async def _until_it_answers(mysql: MysqlDatabase) -> None:
    with trio.fail_after(60):
        while True:
            try:
                return await mysql.ping()
            except DatabaseUnavailable:
                await trio.sleep(0.05)


async def test_while_it_is_away_each_call_says_when_to_come_again(mysql: MysqlDatabase, server: MariaDb) -> None:
    await _stop(server)
    try:
        for call in (mysql.ping(), mysql.fetch("SELECT 1"), mysql.execute("SET @a = 1")):
            with pytest.raises(DatabaseUnavailable) as caught:
                await call
            assert caught.value.retry_after is not None
            assert 0 < caught.value.retry_after <= 5
        with pytest.raises(DatabaseUnavailable):
            async with mysql.transaction():
                pass
        with pytest.raises(DatabaseUnavailable):
            async with mysql.stream("SELECT 1"):
                pass
        assert (mysql.statistics().open, mysql.statistics().waiting) == (0, 0)
    finally:
        await _start(server)
    await _until_it_answers(mysql)


async def test_under_load_it_recovers_by_itself(mysql: MysqlDatabase, server: MariaDb) -> None:
    answered = failed = 0
    enough = False

    async def ask() -> None:
        nonlocal answered, failed
        while not enough:
            try:
                assert await mysql.fetch("SELECT SLEEP(0.001)") == [(0,)]
                answered += 1
            except DatabaseUnavailable:
                failed += 1
                await trio.sleep(0.005)

    async def fifty_more(count: Callable[[], int]) -> None:
        before = count()
        with trio.fail_after(60):
            while count() < before + 50:  # noqa: ASYNC110 - counts have no event
                await trio.sleep(0.005)

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask)
        await fifty_more(lambda: answered)
        await _stop(server)
        await fifty_more(lambda: failed)
        await _start(server)
        await fifty_more(lambda: answered)
        enough = True
    state = mysql.statistics()
    assert state.open <= state.size
    assert (state.idle, state.waiting) == (state.open, 0)


async def test_between_two_tries_callers_fail_without_a_try(
    mysql: MysqlDatabase, server: MariaDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0
    connect = mysql._connect

    async def counted() -> object:
        nonlocal tries
        tries += 1
        return await connect()

    await _stop(server)
    try:
        monkeypatch.setattr(mysql, "_connect", counted)
        monkeypatch.setattr(mysql._backoff, "least", 60.0)
        for _ in range(200):
            with pytest.raises(DatabaseUnavailable):
                await mysql.ping()
        assert tries == 1
    finally:
        await _start(server)


async def test_a_try_that_is_cancelled_lets_the_next_caller_try(
    mysql: MysqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.storage.mysql, "_AGE_SECONDS", 0.0)  # so that each call needs a new connection
    await mysql.ping()
    connect, hang = mysql._connect, True

    async def slow() -> object:
        if hang:
            await trio.sleep_forever()
        return await connect()

    monkeypatch.setattr(mysql, "_connect", slow)
    with trio.move_on_after(0.05) as scope:
        await mysql.ping()
    assert scope.cancelled_caught
    hang = False
    await mysql.ping()
