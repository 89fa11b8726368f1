"""One outcome wakes all, again and again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import trio
import trio.testing

from app.flow.waking import WOKEN


async def test_many_are_woken_with_it_each_of_them_more_than_once() -> None:
    waiting: dict[trio.lowlevel.Task, None] = {}
    woken = 0

    async def wait() -> None:
        nonlocal woken
        for _ in range(3):
            waiting[trio.lowlevel.current_task()] = None
            assert await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED) is None
            woken += 1

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(wait)
        for turn in range(3):
            await trio.testing.wait_all_tasks_blocked()
            tasks = list(waiting)
            waiting.clear()
            for task in tasks:
                trio.lowlevel.reschedule(task, WOKEN)
            await trio.testing.wait_all_tasks_blocked()
            assert woken == 4 * (turn + 1)


async def test_it_is_sent_into_a_generator_as_trio_says_of_outcomes() -> None:
    got: list[object] = []

    def generator() -> Generator[int]:
        got.append((yield 1))
        yield 2

    async def asynchronous() -> AsyncGenerator[int, None]:
        got.append((yield 1))
        yield 2

    plain, other = generator(), asynchronous()
    next(plain)
    assert WOKEN.send(plain) == 2
    await anext(other)
    assert await WOKEN.asend(other) == 2
    await other.aclose()
    assert got == [None, None]
