"""The drain: what runs is counted, finishes or is cut, and each who waits for the end is told."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from app.flow.drain import DrainGate, DrainStatistics
from app.flow.request import RequestScope
from tests.gates import running


async def serve(gate: DrainGate, request: RequestScope, ends: trio.Event) -> None:
    """A request that lasts until ``ends``, or until it is cancelled."""
    with running(gate, request), request.scope:
        await ends.wait()


async def test_requests_are_counted_while_they_run() -> None:
    gate, end = DrainGate(), trio.Event()
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(serve, gate, RequestScope(str(number)), end)
        await trio.testing.wait_all_tasks_blocked()
        assert gate.statistics() == DrainStatistics(draining=False, running=3, finished=0, cut=0)
        end.set()
    assert gate.statistics() == DrainStatistics(draining=False, running=0, finished=0, cut=0)


async def test_requests_of_the_same_id_are_two() -> None:
    # A client may send one X-Request-Id twice at the same time.
    gate = DrainGate()
    with running(gate, RequestScope("same")):
        with running(gate, RequestScope("same")):
            assert gate.statistics().running == 2
        assert gate.statistics().running == 1


async def test_a_request_that_fails_does_not_run_any_more() -> None:
    gate = DrainGate()
    with pytest.raises(ZeroDivisionError), running(gate, RequestScope("a")):
        raise ZeroDivisionError
    assert gate.statistics().running == 0


async def test_while_draining_requests_still_come_and_finish() -> None:
    gate, end = DrainGate(), trio.Event()
    async with trio.open_nursery() as nursery:
        gate.start()
        assert gate.draining
        request = RequestScope("late")
        nursery.start_soon(serve, gate, request, end)
        await trio.testing.wait_all_tasks_blocked()
        end.set()
    assert request.reason is None
    assert gate.statistics() == DrainStatistics(draining=True, running=0, finished=1, cut=0)


async def test_what_still_runs_is_cut_and_both_are_counted() -> None:
    gate, end, never = DrainGate(), trio.Event(), trio.Event()
    finishing, stuck = RequestScope("finishing"), RequestScope("stuck")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, gate, finishing, end)
        nursery.start_soon(serve, gate, stuck, never)
        await trio.testing.wait_all_tasks_blocked()
        gate.start()
        end.set()
        await trio.testing.wait_all_tasks_blocked()
        gate.cut()
    assert (finishing.ended_by, stuck.ended_by) == (None, "shutdown")
    assert gate.statistics() == DrainStatistics(draining=True, running=0, finished=1, cut=1)


async def test_a_request_that_comes_after_the_cut_is_cancelled_at_once(autojump_clock: MockClock) -> None:
    gate = DrainGate()
    gate.start()
    gate.cut()
    request = RequestScope("too late")
    with trio.fail_after(1):
        await serve(gate, request, trio.Event())
    assert request.ended_by == "shutdown"
    assert gate.statistics().cut == 1


async def test_a_request_whose_client_left_is_not_counted_as_cut() -> None:
    gate = DrainGate()
    request = RequestScope("gone")
    gate.start()
    with running(gate, request):
        request.cancel("disconnected")
        gate.cut()
    assert request.reason == "disconnected"
    assert gate.statistics() == DrainStatistics(draining=True, running=0, finished=1, cut=0)


async def test_starting_and_cutting_may_be_repeated() -> None:
    gate = DrainGate()
    with running(gate, RequestScope("a")):
        for _ in range(2):
            gate.start()
            gate.cut()
    assert gate.statistics().cut == 1


async def test_who_waits_for_the_start_and_the_cut_is_told() -> None:
    gate, told = DrainGate(), list[str]()

    async def tell(word: str, event: trio.Event) -> None:
        await (gate.wait_started() if word == "started" else gate.wait_cut())
        told.append(word)
        event.set()

    async with trio.open_nursery() as nursery:
        started, cut = trio.Event(), trio.Event()
        nursery.start_soon(tell, "started", started)
        nursery.start_soon(tell, "cut", cut)
        await trio.testing.wait_all_tasks_blocked()
        assert told == []
        gate.start()
        await started.wait()
        assert told == ["started"]
        gate.cut()
        await cut.wait()
    with trio.fail_after(1):
        await gate.wait_started()
        await gate.wait_cut()


# -- idle --------------------------------------------------------------------------------------------------------------


async def test_without_requests_it_is_idle_at_once(autojump_clock: MockClock) -> None:
    with trio.fail_after(1):
        await DrainGate().wait_idle()


async def test_it_is_idle_when_the_last_request_has_ended(autojump_clock: MockClock) -> None:
    gate, idle = DrainGate(), trio.Event()

    async def wait() -> None:
        await gate.wait_idle()
        idle.set()

    async with trio.open_nursery() as nursery:
        first, second = trio.Event(), trio.Event()
        nursery.start_soon(serve, gate, RequestScope("first"), first)
        nursery.start_soon(serve, gate, RequestScope("second"), second)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait)
        first.set()
        await trio.testing.wait_all_tasks_blocked()
        assert not idle.is_set()
        second.set()
        with trio.fail_after(1):
            await idle.wait()


async def test_a_request_that_comes_at_the_last_moment_is_waited_for_too(autojump_clock: MockClock) -> None:
    gate, idle = DrainGate(), trio.Event()

    async def wait() -> None:
        await gate.wait_idle()
        idle.set()

    async with trio.open_nursery() as nursery:
        with running(gate, RequestScope("first")):
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
        # No checkpoint in between: the waiter is woken by the end of the first, and finds the second.
        with running(gate, RequestScope("second")):
            await trio.testing.wait_all_tasks_blocked()
            assert not idle.is_set()
        with trio.fail_after(1):
            await idle.wait()


async def test_each_of_several_waiters_is_told_that_it_is_idle(autojump_clock: MockClock) -> None:
    gate = DrainGate()
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            with running(gate, RequestScope("a")):
                nursery.start_soon(gate.wait_idle)
                nursery.start_soon(gate.wait_idle)
                await trio.testing.wait_all_tasks_blocked()


async def test_waiting_for_idle_may_be_cancelled_and_begun_again(autojump_clock: MockClock) -> None:
    gate = DrainGate()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            with running(gate, RequestScope("a")):
                with trio.move_on_after(1) as scope:
                    await gate.wait_idle()
                assert scope.cancelled_caught
                nursery.start_soon(gate.wait_idle)
                await trio.testing.wait_all_tasks_blocked()
