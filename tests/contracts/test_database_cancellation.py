"""The contract of `app.storage.database.Database` under cancellation, over each implementation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.lowlevel import Task
from trio.testing import wait_all_tasks_blocked

from app.storage.database import Database

type Operation = Callable[[Database], Awaitable[object]]

_MOST_STEPS = 200
_ENDLESS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "mysql": "SELECT SLEEP(600)",
}


class _CancelAtStep(trio.abc.Instrument):
    """Cancels ``scope`` when the current task is about to take a step for the ``step``-th time from now."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._task = trio.lowlevel.current_task()
        self._scope = scope
        self._left = step

    def before_task_step(self, task: Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


async def _fetch(database: Database) -> None:
    await database.fetch("SELECT a FROM things")


async def _execute(database: Database) -> None:
    await database.execute("INSERT INTO things (a) VALUES (1)")


async def _stream(database: Database) -> None:
    async with database.stream("SELECT a FROM things WHERE a = 0", batch=2) as stream:
        async for _ in stream:
            pass


async def _transaction(database: Database) -> None:
    async with database.transaction() as transaction:
        await transaction.execute("INSERT INTO things (a) VALUES (1)")
        await transaction.fetch("SELECT a FROM things")
        await transaction.execute("INSERT INTO things (a) VALUES (1)")


async def _refused_transaction(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as transaction:
            await transaction.execute("INSERT INTO things (a) VALUES (1)")
            raise ZeroDivisionError


async def _ping(database: Database) -> None:
    await database.ping()


@pytest.mark.parametrize("operation", [_fetch, _execute, _stream, _transaction, _refused_transaction, _ping])
async def test_a_call_cancelled_at_any_of_its_awaits_leaves_the_database_of_use(
    database: Database, operation: Operation
) -> None:
    await database.execute("CREATE TABLE things (a BIGINT)")
    await database.execute("INSERT INTO things (a) VALUES (0), (0), (0), (0), (0)")
    for step in range(1, _MOST_STEPS):
        with trio.CancelScope() as scope:
            trio.lowlevel.add_instrument(instrument := _CancelAtStep(scope, step))
            try:
                await operation(database)
            finally:
                trio.lowlevel.remove_instrument(instrument)
        if not scope.cancel_called:
            break
        with trio.fail_after(20):
            await database.execute("INSERT INTO things (a) VALUES (2)")
            ((ours, theirs),) = await database.fetch("SELECT sum(a = 1), sum(a = 2) FROM things")
        assert theirs == step
        assert int(str(ours)) % 2 == 0 or operation is _execute  # all of a transaction, or nothing
        state = database.statistics()
        assert (state.idle, state.waiting) == (state.open, 0)
    else:
        pytest.fail("it has no end")
    assert step > 1


@pytest.mark.parametrize("by", ["cancel", "deadline"])
async def test_a_call_in_a_scope_that_is_cancelled_already_does_nothing(database: Database, by: str) -> None:
    await database.execute("CREATE TABLE things (a BIGINT)")
    before = database.statistics()
    for operation in (_fetch, _execute, _stream, _transaction, _ping):
        with trio.CancelScope() as scope:
            if by == "cancel":
                scope.cancel()
            else:  # which Trio has not looked at yet
                scope.deadline = trio.current_time() - 1
            await operation(database)
        assert scope.cancelled_caught
    assert database.statistics() == before
    assert await database.fetch("SELECT a FROM things") == []


@pytest.mark.parametrize("call", ["fetch", "execute", "stream", "transaction"])
async def test_an_endless_statement_ends_with_its_caller(database: Database, call: str) -> None:
    async def run() -> None:
        sql = _ENDLESS[database.dialect]
        match call:
            case "stream":
                async with database.stream(sql) as stream:
                    await anext(stream)
            case "transaction":
                async with database.transaction() as transaction:
                    await transaction.fetch(sql)
            case _:
                await getattr(database, call)(sql)

    before = database.statistics().killed
    with trio.fail_after(60):
        with trio.move_on_after(0.2) as scope:
            await run()
        assert scope.cancelled_caught
        await database.execute("CREATE TABLE things (a BIGINT)")
    assert database.statistics().killed == before + 1


async def test_a_cancelled_caller_does_not_disturb_those_beside_it(database: Database) -> None:
    answered: list[int] = []

    async def leave() -> None:
        with trio.move_on_after(0.1):
            await database.fetch(_ENDLESS[database.dialect])

    async def ask(number: int) -> None:
        assert await database.fetch("SELECT ? + 0", (number,)) == [(number,)]
        answered.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(leave)
            nursery.start_soon(ask, number)
    assert sorted(answered) == list(range(10))
    await database.ping()


async def test_a_caller_that_leaves_the_queue_does_not_hold_up_those_behind_it(database: Database) -> None:
    served: list[str] = []

    async def use(name: str, scope: trio.CancelScope) -> None:
        with scope:
            async with database.transaction():
                served.append(name)

    async def hold(*, task_status: trio.TaskStatus[None]) -> None:
        async with database.transaction():
            task_status.started()
            await enough.wait()

    enough = trio.Event()
    scopes = [trio.CancelScope() for _ in range(3)]
    async with trio.open_nursery() as nursery:
        for _ in range(1 if database.dialect == "sqlite" else database.statistics().size):
            await nursery.start(hold)
        for name, scope in zip("abc", scopes, strict=True):
            nursery.start_soon(use, name, scope)
            await wait_all_tasks_blocked()
        scopes[0].cancel()
        scopes[1].cancel()
        await wait_all_tasks_blocked()
        enough.set()
    assert served == ["c"]
