"""One time limit for many, on Trio's own clock."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from app.flow.timeouts import Timeouts

type Told = list[tuple[str, float]]


@asynccontextmanager
async def _running(seconds: float = 10) -> AsyncGenerator[tuple[Timeouts[str], Told]]:
    """What is told, with the time since the beginning."""
    told: Told = []
    began = trio.current_time()
    timeouts: Timeouts[str] = Timeouts(seconds, lambda key: told.append((key, trio.current_time() - began)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timeouts.run)
        await trio.testing.wait_all_tasks_blocked()
        yield timeouts, told
        nursery.cancel_scope.cancel()


async def test_who_is_in_for_too_long_is_told_once(autojump_clock: MockClock) -> None:
    async with _running() as (timeouts, told):
        timeouts.enter("a")
        assert "a" in timeouts
        await trio.sleep(9.9)
        assert told == []
        await trio.sleep(30)
        assert told == [("a", 10)]
        assert "a" not in timeouts


async def test_who_leaves_in_time_is_not_told(autojump_clock: MockClock) -> None:
    async with _running() as (timeouts, told):
        timeouts.enter("a")
        await trio.sleep(9)
        timeouts.leave("a")
        timeouts.leave("a")
        timeouts.leave("never in")
        await trio.sleep(100)
        assert told == []


async def test_each_has_its_own_time(autojump_clock: MockClock) -> None:
    async with _running() as (timeouts, told):
        for key in "abc":
            timeouts.enter(key)
            await trio.sleep(3)
        timeouts.leave("b")
        await trio.sleep(100)
        assert told == [("a", 10), ("c", 16)]


async def test_whoever_is_first_may_leave_while_the_next_is_awaited(autojump_clock: MockClock) -> None:
    async with _running() as (timeouts, told):
        timeouts.enter("a")
        await trio.sleep(5)
        timeouts.enter("b")
        timeouts.leave("a")
        await trio.sleep(100)
        assert told == [("b", 15)]


async def test_to_enter_again_starts_the_time_anew_and_holds_up_no_other(autojump_clock: MockClock) -> None:
    async with _running() as (timeouts, told):
        timeouts.enter("a")
        timeouts.enter("b")
        await trio.sleep(9)
        timeouts.enter("a")
        await trio.sleep(100)
        assert told == [("b", 10), ("a", 19)]


async def test_it_goes_on_after_nobody_was_in(autojump_clock: MockClock) -> None:
    async with _running() as (timeouts, told):
        for number in range(3):
            timeouts.enter(str(number))
            await trio.sleep(20)
        assert told == [("0", 10), ("1", 30), ("2", 50)]
        timeouts.enter("left")
        timeouts.leave("left")  # the waker is awake already
        await trio.sleep(1)
        timeouts.enter("in")
        await trio.sleep(100)
        assert told[3:] == [("in", 71)]


async def test_what_one_is_told_may_change_who_is_in(autojump_clock: MockClock) -> None:
    told: list[str] = []

    def expire(key: str) -> None:
        told.append(key)
        if key == "a":
            timeouts.leave("b")
            timeouts.enter("a")

    timeouts: Timeouts[str] = Timeouts(10, expire)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timeouts.run)
        for key in "abc":
            timeouts.enter(key)
        await trio.sleep(15)
        assert told == ["a", "c"]
        timeouts.leave("a")
        await trio.sleep(100)
        assert told == ["a", "c"]
        nursery.cancel_scope.cancel()


async def test_those_whose_time_has_come_together_are_told_in_their_order(autojump_clock: MockClock) -> None:
    async with _running() as (timeouts, told):
        keys = [str(number) for number in range(100)]
        for key in keys:
            timeouts.enter(key)
        autojump_clock.jump(50)  # a machine that was asleep
        await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        assert [key for key, _ in told] == keys


async def test_who_is_in_costs_no_wake_up(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks once for each limit's length, however often somebody comes and goes."""
    looks = 0
    late = Timeouts._late

    def count(self: Timeouts[str], now: float) -> list[str]:
        nonlocal looks
        looks += 1
        return late(self, now)

    monkeypatch.setattr(Timeouts, "_late", count)
    async with _running() as (timeouts, told):
        for _ in range(1000):
            timeouts.enter("a")
            await trio.sleep(0.05)
            timeouts.leave("a")
        assert told == []
    assert looks <= 15
