"""ASGI's lifespan: rooms are open as long as the server runs, and a failed start is told in words."""

from __future__ import annotations

import gc
from collections.abc import AsyncGenerator, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from app.errors import StartError
from app.flow.drain import DrainGate
from app.flow.request import RequestScope
from app.web.lifespan import Server
from app.wire.asgi import AsgiApp, Message
from tests.gates import running
from tests.web.wire import SETTINGS, Wire, answer, scope

type Log = list[MutableMapping[str, Any]]
type Open = Callable[[], AbstractAsyncContextManager[AsgiApp]]


class _Lifespan:
    """The side of a server in that protocol."""

    def __init__(self) -> None:
        self.told: list[Message] = []
        self._shutdown = trio.Event()
        self._started_up = False

    async def receive(self) -> Message:
        if not self._started_up:
            self._started_up = True
            return {"type": "lifespan.startup"}
        await self._shutdown.wait()
        return {"type": "lifespan.shutdown"}

    async def send(self, message: Message) -> None:
        self.told.append(message)

    def shut_down(self) -> None:
        self._shutdown.set()

    @property
    def types(self) -> list[str]:
        return [message["type"].removeprefix("lifespan.") for message in self.told]


def _rooms(opened: list[str], error: BaseException | None = None) -> Open:
    @asynccontextmanager
    async def open_rooms() -> AsyncGenerator[AsgiApp]:
        opened.append("open")
        if error is not None:
            raise error
        yield answer
        opened.append("closed")

    return open_rooms


def _server(rooms: Open, gate: DrainGate | None = None) -> Server:
    return Server(rooms, gate or DrainGate(), SETTINGS)


async def _live(server: Server, lifespan: _Lifespan) -> None:
    await server({"type": "lifespan"}, lifespan.receive, lifespan.send)


async def test_the_rooms_are_open_from_startup_to_shutdown(log: Log) -> None:
    opened: list[str] = []
    lifespan, server, wire = _Lifespan(), _server(_rooms(opened)), Wire()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_live, server, lifespan)
        await wait_all_tasks_blocked()
        assert (lifespan.types, opened) == (["startup.complete"], ["open"])
        await server(scope(), wire.receive, wire.send)
        assert wire.status == 200
        lifespan.shut_down()
    assert lifespan.types == ["startup.complete", "shutdown.complete"]
    assert opened == ["open", "closed"]
    assert [line["event"] for line in log] == ["request", "stopped"]


async def test_what_is_there_at_the_start_is_left_alone_by_the_garbage_collector() -> None:
    """Of the rooms nothing is looked at; what came since then is."""
    before = gc.get_freeze_count()
    lifespan, server = _Lifespan(), _server(_rooms([]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_live, server, lifespan)
        await wait_all_tasks_blocked()
        assert gc.get_freeze_count() > before
        assert not any(found is server for found in gc.get_objects())
        lifespan.shut_down()
    assert gc.get_freeze_count() == 0
    assert any(found is server for found in gc.get_objects())


async def test_the_last_line_says_what_was_finished_and_what_was_cut(log: Log) -> None:
    gate, lifespan = DrainGate(), _Lifespan()
    gate.start()
    for number in range(3):
        with running(gate, request := RequestScope(str(number))):
            if number == 2:
                request.cancel("shutdown")
    lifespan.shut_down()
    await _live(_server(_rooms([]), gate), lifespan)
    assert [(line["event"], line["finished"], line["cut"]) for line in log] == [("stopped", 2, 1)]


@pytest.mark.parametrize(
    "error",
    [
        StartError("the folder is full", "the database is away"),
        ExceptionGroup(
            "g", [ExceptionGroup("h", [StartError("the folder is full")]), StartError("the database is away")]
        ),
    ],
)
async def test_a_start_that_fails_is_told_in_a_line_for_each_reason(error: Exception, log: Log) -> None:
    lifespan = _Lifespan()
    await _live(_server(_rooms([], error)), lifespan)
    assert lifespan.told[0]["type"] == "lifespan.startup.failed"
    assert lifespan.told[0]["message"] == "the folder is full; the database is away"
    assert [line["reason"] for line in log] == ["the folder is full", "the database is away"]
    assert not any("exc_info" in line for line in log)


async def test_after_a_start_that_failed_nothing_more_is_said() -> None:
    lifespan = _Lifespan()
    await _live(_server(_rooms([], StartError("no"))), lifespan)
    assert lifespan.types == ["startup.failed"]


@pytest.mark.parametrize("error", [ValueError("a bug"), ExceptionGroup("g", [StartError("no"), ValueError("a bug")])])
async def test_a_start_that_fails_by_a_bug_is_told_with_its_traceback(error: Exception, log: Log) -> None:
    lifespan = _Lifespan()
    await _live(_server(_rooms([], error)), lifespan)
    assert lifespan.told == [{"type": "lifespan.startup.failed", "message": "unexpected error"}]
    assert [line["exc_info"] for line in log] == [error]


async def test_rooms_that_fail_to_close_are_no_failed_start(log: Log) -> None:
    @asynccontextmanager
    async def rooms() -> AsyncGenerator[AsgiApp]:
        yield answer
        raise StartError("too late for that")

    lifespan = _Lifespan()
    lifespan.shut_down()
    with pytest.raises(StartError):
        await _live(_server(rooms), lifespan)
    assert lifespan.types == ["startup.complete"]
    assert [line["event"] for line in log] == ["stopped"]


async def test_a_cancellation_closes_the_rooms_and_passes(log: Log) -> None:
    closed: list[str] = []

    @asynccontextmanager
    async def rooms() -> AsyncGenerator[AsgiApp]:
        try:
            yield answer
        finally:
            closed.append("closed")

    lifespan = _Lifespan()
    with trio.CancelScope() as outside:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_live, _server(rooms), lifespan)
            await wait_all_tasks_blocked()
            outside.cancel()
    assert outside.cancelled_caught
    assert closed == ["closed"]
    assert lifespan.types == ["startup.complete"]
    assert [line["event"] for line in log] == ["stopped"]


async def test_a_start_that_is_cancelled_is_not_told_as_failed() -> None:
    @asynccontextmanager
    async def rooms() -> AsyncGenerator[AsgiApp]:
        await trio.sleep_forever()
        yield answer

    lifespan = _Lifespan()
    with trio.CancelScope() as outside:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_live, _server(rooms), lifespan)
            await wait_all_tasks_blocked()
            outside.cancel()
    assert outside.cancelled_caught
    assert lifespan.told == []


async def test_without_the_lifespan_protocol_no_request_is_served() -> None:
    wire = Wire()
    with pytest.raises(RuntimeError, match="lifespan"):
        await _server(_rooms([]))(scope(), wire.receive, wire.send)


async def test_after_shutdown_no_request_reaches_closed_rooms() -> None:
    lifespan, server, wire = _Lifespan(), _server(_rooms([])), Wire()
    lifespan.shut_down()
    await _live(server, lifespan)
    with pytest.raises(RuntimeError):
        await server(scope(), wire.receive, wire.send)
