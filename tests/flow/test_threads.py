"""Blocking calls in threads: their bound, and how they end with the task that wants them.

No `autojump_clock` here: time would jump while a thread works.
"""

from __future__ import annotations

import contextvars
import itertools
import threading
from collections.abc import Iterator
from contextlib import aclosing
from functools import partial

import pytest
import trio
import trio.testing

from app.flow.threads import ThreadPool, ThreadStatistics, in_threads

PATIENCE = 30


class Call:
    """A blocking call that lasts until it is let go, or interrupted."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.ended = threading.Event()
        self.interruptions = 0
        self.interruptions_needed = 1
        self._go = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        try:
            assert self._go.wait(PATIENCE)
            if self.interruptions:
                raise InterruptedError
            return "result"
        finally:
            self.ended.set()

    def let_go(self) -> None:
        self._go.set()

    def interrupt(self) -> None:
        self.interruptions += 1
        if self.interruptions >= self.interruptions_needed:
            self._go.set()

    async def wait_begun(self) -> None:
        with trio.fail_after(PATIENCE):
            assert await trio.to_thread.run_sync(partial(self.begun.wait, PATIENCE))


@pytest.fixture
def pool() -> ThreadPool:
    return ThreadPool("files", 1)


# -- the bound ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interruptible", [False, True])
async def test_no_more_calls_run_at_once_than_the_pool_has_threads(*, interruptible: bool) -> None:
    pool = ThreadPool("files", 3)
    counting = threading.Lock()
    running = most = 0
    three_run = threading.Barrier(3)

    def call() -> None:
        nonlocal running, most
        with counting:
            running += 1
            most = max(most, running)
        three_run.wait(PATIENCE)  # passes only three at a time: that many do run at once
        with counting:
            running -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(partial(pool.run_interruptible, call, int) if interruptible else partial(pool.run, call))
    assert most == 3


async def test_waiting_calls_get_a_thread_in_the_order_in_which_they_came(pool: ThreadPool) -> None:
    first, order = Call(), list[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run, first)
        await first.wait_begun()
        for number in range(5):
            nursery.start_soon(pool.run, partial(order.append, number))
            await trio.testing.wait_all_tasks_blocked()
        first.let_go()
    assert order == [0, 1, 2, 3, 4]


async def test_statistics_tell_what_is_busy_and_what_waits(pool: ThreadPool) -> None:
    call = Call()
    assert pool.statistics() == ThreadStatistics("files", size=1, busy=0, waiting=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run, call)
        await call.wait_begun()
        nursery.start_soon(pool.run, int)
        nursery.start_soon(pool.run_interruptible, int, int)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics() == ThreadStatistics("files", size=1, busy=1, waiting=2)
        call.let_go()
    assert pool.statistics() == ThreadStatistics("files", size=1, busy=0, waiting=0)


# -- results -----------------------------------------------------------------------------------------------------------


async def test_a_call_gives_its_result_or_its_exception(pool: ThreadPool) -> None:
    interrupted: list[None] = []
    with trio.testing.assert_checkpoints():
        assert await pool.run(lambda: 1) == 1
    with trio.testing.assert_checkpoints():
        assert await pool.run_interruptible(lambda: 1, lambda: interrupted.append(None)) == 1
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        await pool.run_interruptible(lambda: 1 // 0, lambda: interrupted.append(None))
    assert not interrupted


@pytest.mark.parametrize("interruptible", [False, True])
async def test_a_call_runs_in_another_thread_with_the_context_of_its_task(
    pool: ThreadPool, *, interruptible: bool
) -> None:
    variable = contextvars.ContextVar[str]("variable")
    variable.set("of the task")

    def call() -> tuple[int, str]:
        return threading.get_ident(), variable.get()

    thread, value = await (pool.run_interruptible(call, int) if interruptible else pool.run(call))
    assert thread != threading.get_ident()
    assert value == "of the task"


# -- cancellation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interruptible", [False, True])
async def test_a_call_that_is_cancelled_while_it_waits_for_a_thread_never_begins(
    pool: ThreadPool, *, interruptible: bool
) -> None:
    first, second = Call(), Call()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run, first)
        await first.wait_begun()
        with trio.fail_after(PATIENCE), trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(
                    partial(pool.run_interruptible, second, second.interrupt)
                    if interruptible
                    else partial(pool.run, second)
                )
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert not first.ended.is_set()  # it did not have to wait for the thread
        first.let_go()
    await pool.run(int)  # the thread is free, and whatever was queued before this has had its turn
    assert not second.begun.is_set()
    assert second.interruptions == 0


@pytest.mark.parametrize("interruptible", [False, True])
async def test_a_call_of_a_cancelled_task_never_begins(pool: ThreadPool, *, interruptible: bool) -> None:
    call = Call()
    with trio.CancelScope() as scope:
        scope.cancel()
        await (pool.run_interruptible(call, call.interrupt) if interruptible else pool.run(call))
    await pool.run(int)
    assert not call.begun.is_set()
    assert scope.cancelled_caught


async def test_a_call_whose_thread_has_not_come_to_it_when_it_is_cancelled_never_begins(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Between the moment at which a thread is taken and that at which it begins: held up here by the thread itself.
    call, arrived, go_on, left = Call(), threading.Event(), threading.Event(), threading.Event()
    run_sync = trio.to_thread.run_sync

    async def run_late(job: partial[object], **options: object) -> object:
        def late() -> object:
            arrived.set()
            assert go_on.wait(PATIENCE)
            try:
                return job()
            finally:
                left.set()

        return await run_sync(late, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(trio.to_thread, "run_sync", run_late)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run_interruptible, call, call.interrupt)
            await run_sync(partial(arrived.wait, PATIENCE))
            nursery.cancel_scope.cancel()
    assert not go_on.is_set()  # the caller left at once
    go_on.set()
    await run_sync(partial(left.wait, PATIENCE))
    assert not call.begun.is_set()
    assert call.interruptions == 0


async def test_a_running_call_is_interrupted_and_waited_for(pool: ThreadPool) -> None:
    call = Call()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run_interruptible, call, call.interrupt)
        await call.wait_begun()
        nursery.cancel_scope.cancel()
    assert call.interruptions >= 1
    assert call.ended.is_set()
    assert nursery.cancel_scope.cancelled_caught


async def test_an_interruption_that_was_lost_is_repeated_until_the_call_has_ended(pool: ThreadPool) -> None:
    call = Call()
    call.interruptions_needed = 5
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run_interruptible, call, call.interrupt)
        await call.wait_begun()
        nursery.cancel_scope.cancel()
    assert call.interruptions >= 5
    assert call.ended.is_set()


async def test_after_an_interrupted_call_has_ended_it_is_not_interrupted_again(pool: ThreadPool) -> None:
    # The interruption would hit the next call of the same connection.
    call = Call()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run_interruptible, call, call.interrupt)
        await call.wait_begun()
        nursery.cancel_scope.cancel()
    interruptions = call.interruptions
    await pool.run(int)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert call.interruptions == interruptions


async def test_the_result_of_a_call_that_ended_in_spite_of_its_cancellation_is_dropped(pool: ThreadPool) -> None:
    call, results = Call(), list[str]()

    async def use() -> None:
        results.append(await pool.run_interruptible(call, call.let_go))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(use)
        await call.wait_begun()
        nursery.cancel_scope.cancel()
    assert call.ended.is_set()
    assert results == []


async def test_the_thread_of_an_interrupted_call_is_free_again(pool: ThreadPool) -> None:
    for _ in range(3):
        call = Call()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run_interruptible, call, call.interrupt)
            await call.wait_begun()
            nursery.cancel_scope.cancel()
    with trio.fail_after(PATIENCE):
        assert await pool.run(lambda: "free") == "free"
    assert pool.statistics().busy == 0


async def test_a_running_call_that_cannot_be_interrupted_is_waited_for(pool: ThreadPool) -> None:
    call = Call()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run, call)
        await call.wait_begun()
        nursery.cancel_scope.cancel()
        trio.lowlevel.spawn_system_task(_let_go_when_idle, call)
    assert call.ended.is_set()


async def _let_go_when_idle(call: Call) -> None:
    await trio.testing.wait_all_tasks_blocked()
    assert not call.ended.is_set()
    call.let_go()


# -- items that are taken in threads -----------------------------------------------------------------------------------


async def test_items_come_in_order_each_from_a_thread() -> None:
    def items() -> Iterator[tuple[int, bool]]:
        for number in range(3):
            yield number, threading.current_thread() is threading.main_thread()

    assert [item async for item in in_threads(items())] == [(0, False), (1, False), (2, False)]
    assert [item async for item in in_threads(iter(()))] == []


async def test_an_error_of_the_items_is_the_errors_of_who_takes_them() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("broken")

    taken: list[int] = []
    with pytest.raises(OSError, match="broken"):
        async for item in in_threads(items()):
            taken.append(item)
    assert taken == [1]


async def test_who_is_cancelled_takes_no_more_items() -> None:
    taken: list[int] = []
    with trio.CancelScope() as scope:
        async with aclosing(in_threads(itertools.count())) as items:
            async for item in items:
                taken.append(item)
                if item == 2:
                    scope.cancel()
    assert taken == [0, 1, 2]
