"""The scope of a request: its deadline, the reason of its end, and what it holds."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest
import trio
from trio.testing import MockClock

from app.flow.request import Reason, RequestScope, current_request
from app.flow.timeouts import Timeouts


@contextmanager
def moving(request: RequestScope) -> Generator[None]:
    """A part of the answer is on its way."""
    request.begin_moving()
    yield
    request.end_moving()


async def test_a_request_that_just_ends_has_no_reason(autojump_clock: MockClock) -> None:
    request = RequestScope("a")
    request.set_deadline(1, lasts=True)
    with request.scope:
        await trio.sleep(0.5)
    assert request.reason is None
    assert request.ended_by is None


@pytest.mark.parametrize("lasts", [False, True])
async def test_the_deadline_ends_a_request_that_has_not_answered(autojump_clock: MockClock, *, lasts: bool) -> None:
    request = RequestScope("a")
    request.set_deadline(5, lasts=lasts)
    began = trio.current_time()
    with request.scope:
        await trio.sleep_forever()
    assert trio.current_time() - began == pytest.approx(5)
    assert request.ended_by == "deadline"


async def test_a_deadline_that_does_not_last_is_lifted_while_the_answer_moves(autojump_clock: MockClock) -> None:
    request = RequestScope("a")
    request.set_deadline(5, lasts=False)
    with request.scope:
        for _ in range(3):
            await trio.sleep(4)
            with moving(request):
                await trio.sleep(1000)
    assert request.ended_by is None


@pytest.mark.parametrize("shared", [False, True])
async def test_what_comes_and_what_goes_may_move_at_once(autojump_clock: MockClock, *, shared: bool) -> None:
    timeouts: Timeouts[RequestScope] = Timeouts(5, RequestScope.expire)
    request = RequestScope("a", timeouts=timeouts if shared else None)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timeouts.run)
        if shared:
            timeouts.enter(request)
        else:
            request.set_deadline(5, lasts=False)
        with request.scope:
            with moving(request):
                for _ in range(3):
                    with moving(request):
                        await trio.sleep(4)
                    await trio.sleep(100)  # the other one is still on its way
            await trio.sleep_forever()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began == pytest.approx(317)
    assert request.ended_by == "deadline"


async def test_it_ends_an_answer_that_has_stopped_moving(autojump_clock: MockClock) -> None:
    request = RequestScope("a")
    request.set_deadline(5, lasts=False)
    began = trio.current_time()
    with request.scope:
        with moving(request):
            await trio.sleep(1000)
        await trio.sleep_forever()
    assert trio.current_time() - began == pytest.approx(1005)
    assert request.ended_by == "deadline"


async def test_a_deadline_that_lasts_ends_an_answer_that_is_on_its_way(autojump_clock: MockClock) -> None:
    request = RequestScope("a")
    request.set_deadline(5, lasts=True)
    with request.scope:
        await trio.sleep(4)
        with moving(request):
            await trio.sleep(1000)
    assert request.ended_by == "deadline"


async def test_a_deadline_reaches_what_the_request_started(autojump_clock: MockClock) -> None:
    request = RequestScope("a")
    request.set_deadline(5, lasts=True)
    with request.scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            assert trio.current_effective_deadline() == request.scope.deadline
    assert request.ended_by == "deadline"


@pytest.mark.parametrize("reason", ["disconnected", "shutdown", "deadline"])
async def test_cancelling_a_request_ends_it_for_that_reason(reason: Reason) -> None:
    request = RequestScope("a")
    with request.scope:
        request.cancel(reason)
        await trio.sleep_forever()
    assert request.ended_by == reason


async def test_the_first_reason_stays() -> None:
    request = RequestScope("a")
    with request.scope:
        request.cancel("disconnected")
        request.cancel("shutdown")
        await trio.sleep_forever()
    assert request.ended_by == "disconnected"


async def test_a_request_may_be_cancelled_before_its_scope_is_entered() -> None:
    request = RequestScope("a")
    request.cancel("shutdown")
    with request.scope:
        await trio.sleep_forever()
    assert request.ended_by == "shutdown"


async def test_what_comes_after_the_deadline_is_not_the_reason(autojump_clock: MockClock) -> None:
    # Such as a cut while the query that ran into the deadline is being ended on the server.
    request = RequestScope("a")
    request.set_deadline(1, lasts=True)
    with request.scope:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
                request.cancel("shutdown")
    assert request.ended_by == "deadline"


async def test_what_a_request_holds_is_closed_in_reverse_whatever_ends_it() -> None:
    closed: list[str] = []
    request = RequestScope("a")
    request.close()
    request.resources.callback(closed.append, "first")
    request.resources.callback(closed.append, "second")
    request.close()
    assert closed == ["second", "first"]


async def test_the_tasks_of_a_request_know_it_and_others_do_not() -> None:
    seen: dict[str, RequestScope | None] = {}

    async def look(name: str) -> None:
        seen[name] = current_request.get(None)

    async def serve(request: RequestScope) -> None:
        current_request.set(request)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look, request.id)

    first, second = RequestScope("first"), RequestScope("second")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, first)
        nursery.start_soon(serve, second)
    await look("outside")
    assert seen == {"first": first, "second": second, "outside": None}
