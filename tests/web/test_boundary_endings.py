"""Requests that are ended from outside: the client leaves, the server drains, or whoever runs it gives up."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from app.errors import NotFound
from app.flow.drain import DrainGate
from app.wire.asgi import Message, Receive, Scope, Send
from tests.web.wire import Handler, Wire, answer, ask, begin_and_wait, raising, wait

type Log = list[MutableMapping[str, Any]]

pytestmark = pytest.mark.usefixtures("any_server")


async def _end_while_it_waits(application: Handler, wire: Wire, end: Any, **more: Any) -> None:
    """Calls ``end`` when the request has got as far as it gets by itself."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: ask(application, wire=wire, **more))
        await wait_all_tasks_blocked()
        end()


# -- the client leaves -------------------------------------------------------------------------------------------------


async def test_a_client_that_leaves_cancels_its_request_which_is_no_error(log: Log) -> None:
    cancelled: list[bool] = []

    async def application(_scope: Scope, _receive: Receive, _send: Send) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(True)
            raise

    wire = Wire()
    await _end_while_it_waits(application, wire, wire.leave)
    assert cancelled == [True]
    assert wire.sent == []
    (line,) = log
    assert (line["outcome"], line["status"], line["log_level"]) == ("disconnected", 499, "info")


async def test_a_client_that_leaves_within_its_answer_gets_no_end_of_it(log: Log) -> None:
    wire = Wire()
    await _end_while_it_waits(begin_and_wait, wire, wire.leave)
    assert not wire.complete
    assert [(line["outcome"], line["status"], line["bytes"]) for line in log] == [("disconnected", 499, 4)]


async def test_a_client_that_leaves_after_its_answer_is_served_and_cancels_nothing(log: Log) -> None:
    done: list[str] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(scope, receive, send)
        wire.leave()
        await wait_all_tasks_blocked()
        done.append("cleaned up")

    wire = Wire()
    await ask(application, wire=wire)
    assert done == ["cleaned up"]
    assert [(line["outcome"], line["status"]) for line in log] == [("ok", 200)]


async def test_a_client_that_leaves_behind_a_long_body_is_noticed(log: Log) -> None:
    wire = Wire([b"x" * 1000] * 50)
    await _end_while_it_waits(wait, wire, wire.leave)
    assert log[-1]["outcome"] == "disconnected"


async def test_an_error_while_cleaning_up_after_a_client_that_left_is_logged(log: Log) -> None:
    async def application(_scope: Scope, _receive: Receive, _send: Send) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("while cleaning up")

    wire = Wire()
    await _end_while_it_waits(application, wire, wire.leave)
    assert [line["event"] for line in log if line["log_level"] == "error"] == ["unexpected error"]


# -- the server drains -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("application", [answer, raising(ValueError("failed"))])
async def test_answers_of_a_server_that_drains_ask_their_clients_to_leave(application: Handler) -> None:
    gate = DrainGate()
    assert b"connection" not in (await ask(application, gate=gate)).fields
    gate.start()
    assert (await ask(application, gate=gate)).fields[b"connection"] == b"close"
    assert b"connection" not in (await ask(application, gate=gate, http_version="2")).fields


async def test_a_request_that_is_cut_is_answered_with_503(log: Log) -> None:
    gate, wire = DrainGate(), Wire()
    gate.start()
    await _end_while_it_waits(wait, wire, gate.cut, gate=gate)
    assert (wire.status, wire.problem["type"]) == (503, "urn:sluice:error:shutting-down")
    assert wire.fields[b"connection"] == b"close"
    assert int(wire.fields[b"retry-after"]) >= 1
    assert log[-1]["outcome"] == "shutdown"
    assert (gate.statistics().finished, gate.statistics().cut) == (0, 1)


async def test_a_request_that_is_cut_within_its_answer_gets_no_end_of_it(log: Log) -> None:
    gate, wire = DrainGate(), Wire()
    gate.start()
    await _end_while_it_waits(begin_and_wait, wire, gate.cut, gate=gate)
    assert (wire.status, wire.complete) == (200, False)
    assert log[-1]["outcome"] == "shutdown"


async def test_over_http_2_no_answer_has_a_connection_field() -> None:
    gate, wire = DrainGate(), Wire()
    gate.start()
    await _end_while_it_waits(wait, wire, gate.cut, gate=gate, http_version="2")
    assert wire.status == 503
    assert b"connection" not in wire.fields


async def test_after_the_cut_a_request_is_turned_away_at_once() -> None:
    gate = DrainGate()
    gate.start()
    gate.cut()
    wire = await ask(wait, gate=gate)
    assert (wire.status, wire.problem["type"]) == (503, "urn:sluice:error:shutting-down")


async def test_a_request_that_ends_while_the_server_drains_is_counted_as_finished() -> None:
    gate, release = DrainGate(), trio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await release.wait()
        await answer(scope, receive, send)

    wire = Wire()

    def end() -> None:
        gate.start()
        assert gate.statistics().running == 1
        release.set()

    await _end_while_it_waits(application, wire, end, gate=gate)
    assert (wire.status, wire.fields[b"connection"]) == (200, b"close")
    assert (gate.statistics().running, gate.statistics().finished, gate.statistics().cut) == (0, 1, 0)


# -- whoever runs the server gives up ----------------------------------------------------------------------------------


async def test_a_cancellation_from_outside_is_passed_on(log: Log) -> None:
    wire = Wire()
    with trio.CancelScope() as outside:
        await _end_while_it_waits(wait, wire, outside.cancel)
    assert outside.cancelled_caught
    assert wire.sent == []
    assert [(line["outcome"], line["log_level"]) for line in log] == [("shutdown", "info")]


async def test_an_error_beside_a_cancellation_from_outside_is_not_lost(log: Log) -> None:
    async def fails_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("while cleaning up")

    async def application(_scope: Scope, _receive: Receive, _send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(fails_when_cancelled)

    wire = Wire()
    with trio.CancelScope() as outside:
        await _end_while_it_waits(application, wire, outside.cancel)
    assert wire.status == 500
    assert wire.complete
    assert [line["event"] for line in log if line["log_level"] == "error"] == ["unexpected error"]


# -- other protocols ---------------------------------------------------------------------------------------------------


class _Socket(Wire):
    """The client of a WebSocket, which sends ``messages`` and leaves with ``code``."""

    def __init__(self, messages: int = 0, code: int = 1006) -> None:
        super().__init__()
        self._code = code
        self._messages: list[Message] = [{"type": "websocket.receive", "text": str(each)} for each in range(messages)]

    async def receive(self) -> Message:
        await trio.lowlevel.checkpoint()
        if self._messages:
            return self._messages.pop(0)
        await self._left.wait()
        return {"type": "websocket.disconnect", "code": self._code}

    def leave(self) -> None:
        self.close_code = self._code
        super().leave()


async def _accept_and_wait(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept"})
    await trio.sleep_forever()


async def test_a_websocket_ends_with_its_client(log: Log) -> None:
    wire = _Socket()
    await _end_while_it_waits(_accept_and_wait, wire, wire.leave, type="websocket")
    assert [message["type"] for message in wire.sent] == ["websocket.accept"]
    assert (log[-1]["status"], log[-1]["outcome"]) == (499, "disconnected")


@pytest.mark.parametrize("code", [1000, 1001, 1005])
async def test_who_closes_a_websocket_as_he_should_has_not_just_gone_away(code: int, log: Log) -> None:
    wire = _Socket(code=code)
    await _end_while_it_waits(_accept_and_wait, wire, wire.leave, type="websocket")
    assert [(line["status"], line["outcome"]) for line in log] == [(101, "ok")]


async def test_an_error_is_one_also_where_the_client_has_closed(log: Log) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await _accept_and_wait(scope, receive, send)
        finally:
            raise ValueError("while cleaning up")

    wire = _Socket(code=1000)
    await _end_while_it_waits(application, wire, wire.leave, type="websocket")
    assert log[-1]["outcome"] != "ok"
    assert [line["event"] for line in log if line["log_level"] == "error"] == ["unexpected error"]


async def test_no_message_of_a_websocket_is_lost_to_who_watches_for_its_end() -> None:
    taken: list[str] = []

    async def application(_scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        taken.extend([(await receive())["text"] for _ in range(10)])

    await ask(application, wire=_Socket(messages=10), type="websocket")
    assert taken == [str(each) for each in range(10)]


@pytest.mark.parametrize(("how", "status"), [("close", 403), ("return", 500)])
async def test_a_route_that_does_not_take_a_websocket_refuses_it_with_a_problem(
    how: str, status: int, log: Log
) -> None:
    async def application(_scope: Scope, _receive: Receive, send: Send) -> None:
        if how == "close":
            await send({"type": "websocket.close"})

    wire = await ask(application, {"x-request-id": "asked-for"}, wire=_Socket(), type="websocket")
    assert (wire.status, wire.problem["request_id"]) == (status, "asked-for")
    assert wire.fields[b"x-request-id"] == b"asked-for"
    assert (log[-1]["status"], log[-1]["outcome"]) == (status, "client_error" if how == "close" else "error")


async def test_a_websocket_is_told_that_the_server_ends(log: Log) -> None:
    wire, gate = _Socket(), DrainGate()
    await _end_while_it_waits(_accept_and_wait, wire, gate.cut, gate=gate, type="websocket")
    assert wire.sent[-1] == {"type": "websocket.close", "code": 1001, "reason": "shutdown"}
    assert (log[-1]["status"], log[-1]["outcome"]) == (101, "shutdown")


async def test_a_websocket_that_is_not_accepted_gets_a_problem(log: Log) -> None:
    wire = await ask(raising(NotFound("nothing here")), wire=_Socket(), type="websocket")
    assert [message["type"] for message in wire.sent] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert (wire.status, wire.problem["title"]) == (404, "Not found")
    assert log[-1]["outcome"] == "client_error"
