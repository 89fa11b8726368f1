"""Deadlines at the boundary: the client's, the server's, and what outlives them."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from app.wire.asgi import Receive, Scope, Send
from tests.web.wire import SERVER_DEADLINE, Handler, Wire, answer, ask, begin_and_wait, chunk, start, wait

type Log = list[MutableMapping[str, Any]]

pytestmark = pytest.mark.usefixtures("any_server")


def _streaming(seconds: float) -> Handler:
    """An application whose answer begins at once and keeps moving for that long."""

    async def application(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        for _ in range(10):
            await trio.sleep(seconds / 10)
            await chunk(send)
        await chunk(send, b"", last=True)

    return application


@pytest.mark.parametrize(
    "given", ["0", "0.0", "-1", "+1", "nan", "inf", "1e3", "1,5", "", " ", "0x10", "١", "1 2", "1_0", "1s"]
)
async def test_a_deadline_that_is_no_positive_decimal_is_refused_before_anything_runs(
    autojump_clock: MockClock, given: str, log: Log
) -> None:
    ran = False

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal ran
        ran = True
        await answer(scope, receive, send)

    wire = await ask(application, {"sluice-deadline": given})
    assert (wire.status, wire.problem["type"]) == (400, "urn:sluice:error:bad-deadline")
    assert not ran
    assert [line["outcome"] for line in log] == ["client_error"]


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, SERVER_DEADLINE),
        ({"sluice-deadline": "0.5"}, 0.5),
        ({"sluice-deadline": " 2 "}, 2.0),
        ({"sluice-deadline": "1000000"}, SERVER_DEADLINE),
    ],
)
async def test_past_the_deadline_a_request_without_an_answer_gets_504(
    autojump_clock: MockClock, fields: dict[str, str], seconds: float, log: Log
) -> None:
    began = trio.current_time()
    wire = await ask(wait, fields)
    assert trio.current_time() - began == pytest.approx(seconds)
    assert (wire.status, wire.problem["type"]) == (504, "urn:sluice:error:deadline")
    (line,) = log
    assert (line["outcome"], line["status"], line["log_level"]) == ("deadline", 504, "info")


async def test_whatever_a_request_starts_inherits_its_deadline(autojump_clock: MockClock) -> None:
    left: list[float] = []

    async def child() -> None:
        left.append(trio.current_effective_deadline() - trio.current_time())

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
        await answer(scope, receive, send)

    await ask(application, {"sluice-deadline": "2.5"})
    assert left == [pytest.approx(2.5)]


async def test_a_transfer_that_moves_outlives_the_servers_deadline(autojump_clock: MockClock, log: Log) -> None:
    wire = await ask(_streaming(3 * SERVER_DEADLINE))
    assert wire.complete
    assert log[-1]["outcome"] == "ok"


async def test_a_deadline_that_the_client_asked_for_cuts_a_transfer_that_moves(
    autojump_clock: MockClock, log: Log
) -> None:
    began = trio.current_time()
    wire = await ask(_streaming(SERVER_DEADLINE / 2), {"sluice-deadline": "5"})
    assert trio.current_time() - began == pytest.approx(5)
    assert (wire.status, wire.complete) == (200, False)
    assert (log[-1]["outcome"], log[-1]["status"], log[-1]["bytes"]) == ("deadline", 200, len(wire.body))


async def test_a_deadline_above_the_servers_counts_as_the_servers_own(autojump_clock: MockClock) -> None:
    wire = await ask(_streaming(3 * SERVER_DEADLINE), {"sluice-deadline": str(10 * SERVER_DEADLINE)})
    assert wire.complete


async def test_an_answer_that_waits_for_its_client_is_cut_at_the_deadline_that_this_client_asked_for(
    autojump_clock: MockClock, log: Log
) -> None:
    began = trio.current_time()
    await ask(answer, {"sluice-deadline": "5"}, wire=Wire(reads=False))
    assert trio.current_time() - began == pytest.approx(5)
    assert log[-1]["outcome"] == "deadline"


async def test_a_client_that_does_not_read_holds_no_request_past_its_last_words(
    autojump_clock: MockClock, log: Log
) -> None:
    began = trio.current_time()
    await ask(wait, wire=Wire(reads=False))
    assert SERVER_DEADLINE < trio.current_time() - began < SERVER_DEADLINE + 10
    assert log[-1]["outcome"] == "deadline"


async def test_a_client_that_leaves_just_before_the_deadline_is_no_late_request(
    autojump_clock: MockClock, log: Log
) -> None:
    wire = Wire()

    async def application(_scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        try:
            await trio.sleep_forever()
        finally:
            # Cleaning up takes until after the deadline.
            with trio.CancelScope(shield=True):
                await trio.sleep(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: ask(application, {"sluice-deadline": "5"}, wire=wire))
        await trio.sleep(4)
        wire.leave()
    assert log[-1]["outcome"] == "disconnected"


async def test_an_answer_in_time_is_left_alone(autojump_clock: MockClock, log: Log) -> None:
    wire = await ask(_streaming(4), {"sluice-deadline": "5"})
    assert wire.complete
    assert log[-1]["outcome"] == "ok"


async def test_the_part_of_an_answer_that_came_before_the_deadline_stays_as_it_was(autojump_clock: MockClock) -> None:
    wire = await ask(begin_and_wait, {"sluice-deadline": "1"})
    assert [message["type"] for message in wire.sent] == ["http.response.start", "http.response.body"]
    assert (wire.status, wire.body) == (200, b"part")


async def test_two_deadlines_are_none() -> None:
    fields = [(b"sluice-deadline", b"5"), (b"sluice-deadline", b"6")]
    wire = await ask(answer, headers=fields)
    assert (wire.status, wire.problem["title"]) == (400, "Bad deadline")
