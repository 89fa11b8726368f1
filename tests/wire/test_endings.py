"""Who leaves, and how that is noticed; and how connections end with their server."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Literal

import pytest
import structlog
import trio
import trio.testing

from app.wire.asgi import PEER, Receive, Scope, Send
from tests.wire.serving import (
    GET,
    GET_CLOSE,
    Leaving,
    Server,
    answer,
    connect,
    echo,
    end,
    get,
    open_server,
    over_both,
    part,
    post,
    post_chunked,
    read_body,
    start,
)

type Way = Literal["close", "reset", "half-close"]

every_way = pytest.mark.parametrize("way", ["close", "reset", "half-close"])

_AT_ONCE = 0.05


# -- the client leaves -------------------------------------------------------------------------------------------------


async def _nothing(receive: Receive, send: Send) -> None:
    await trio.sleep_forever()


async def _one_message(receive: Receive, send: Send) -> None:
    await receive()


async def _whole_body(receive: Receive, send: Send) -> None:
    with suppress(EOFError):
        await read_body(receive)


async def _disconnect(receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _part_of_an_answer(receive: Receive, send: Send) -> None:
    await start(send, (b"content-length", b"100"))
    await part(send, b"part")


_UNREAD = bytes(100_000)
_SITUATIONS = {
    "awaiting nothing in particular": (GET, None),
    "awaiting the end": (GET, _disconnect),
    "behind a pipelined request": (GET + get("/more"), None),
    "behind a hundred pipelined requests": (GET + get("/more") * 100, None),
    "behind an unread body": (post(_UNREAD), None),
    "behind an unread body, in chunks": (post_chunked(_UNREAD), None),
    "behind a body of which some was read": (post(_UNREAD), _one_message),
    "in mid-upload, not reading": (post(_UNREAD, length=10**9), None),
    "in mid-upload, reading": (post(_UNREAD, length=10**9), _whole_body),
    "in mid-answer": (GET, _part_of_an_answer),
}


@over_both
@every_way
@pytest.mark.parametrize("situation", _SITUATIONS)
async def test_who_leaves_is_noticed_at_once_and_told_once(situation: str, way: Way, tls: bool) -> None:
    request, wait = _SITUATIONS[situation]
    app = Leaving(wait)
    async with open_server(app, tls=tls) as server, server.connect() as client:
        await client.send(request)
        await app.begun.wait()
        await trio.testing.wait_all_tasks_blocked(0.005)
        assert app.called == 0
        began = trio.current_time()
        client.leave(way)
        await app.told.wait()
        assert app.at - began < _AT_ONCE
        await server.all_gone()
    assert app.called == 1
    assert app.received == ["http.disconnect"] * 2


@every_way
async def test_who_left_before_the_application_asked_is_told_of_at_once(way: Way) -> None:
    called: list[str] = []
    begun = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await _disconnect(receive, send)
        scope["extensions"][PEER].when_gone(lambda: called.append("at once"))
        called.append("after")

    async with open_server(app) as server, server.connect() as client:
        await client.send(GET)
        await begun.wait()
        client.leave(way)
        await server.all_gone()
    assert called == ["at once", "after"]


async def test_an_end_that_comes_together_with_the_request_is_an_end() -> None:
    """Whoever waits for nothing but that must not wait for ever."""
    ended: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await _disconnect(receive, send)
        ended.append(scope["path"])

    async with open_server(app) as server:
        for number in range(20):
            async with await connect(server.port) as raw:
                await raw.send_all(get(f"/{number}"))
                await raw.send_eof()
        await server.all_gone()
    assert set(ended) <= {f"/{number}" for number in range(20)}


async def test_only_the_last_one_that_asked_is_told() -> None:
    called: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for number in range(3):
            scope["extensions"][PEER].when_gone(lambda number=number: called.append(number))
        await _disconnect(receive, send)

    async with open_server(app) as server, server.connect() as client:
        await client.send(GET)
        await trio.testing.wait_all_tasks_blocked(0.01)
        client.leave("close")
        await server.all_gone()
    assert called == [2]


@over_both
@every_way
async def test_who_leaves_with_a_whole_answer_has_not_left_too_early(way: Way, tls: bool) -> None:
    called: list[str] = []
    received: list[str] = []
    answered = trio.Event()
    gone = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"][PEER].when_gone(lambda: called.append(scope["path"]))
        await receive()
        await answer(send, b"whole")
        answered.set()
        await gone.wait()  # what an application does after its answer
        received.append((await receive())["type"])

    async with open_server(app, tls=tls) as server, server.connect() as client:
        assert (await client.ask(GET)).body == b"whole"
        await answered.wait()
        client.leave(way)
        await trio.sleep(0.02)
        gone.set()
        await server.all_gone()
    assert called == []
    assert received == ["http.disconnect"]


async def test_the_peer_of_one_request_is_not_told_of_in_the_next() -> None:
    called: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"][PEER].when_gone(lambda: called.append(scope["path"]))
        if scope["path"] == "/last":
            await _disconnect(receive, send)
        else:
            await answer(send)

    async with open_server(app) as server, server.connect() as client:
        await client.ask(get("/first"))
        await client.send(get("/last"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        client.leave("close")
        await server.all_gone()
    assert called == ["/last"]


@over_both
@every_way
async def test_to_send_to_who_left_is_an_os_error(way: Way, tls: bool) -> None:
    """ASGI 2.4; also where the kernel would still take it, as after a half-close."""
    errors: list[OSError] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await _disconnect(receive, send)
        await start(send)
        for _ in range(2):
            try:
                await part(send, b"to nobody")
            except OSError as error:
                errors.append(error)
        raise errors[0]

    with structlog.testing.capture_logs() as logs:
        async with open_server(app, tls=tls) as server, server.connect() as client:
            await client.send(GET + get("/more"))
            await trio.testing.wait_all_tasks_blocked(0.005)
            client.leave(way)
            if way == "half-close":
                assert await client.rest() == b""
            await server.all_gone()
    assert len(errors) == 2
    assert [line["event"] for line in logs if line["log_level"] != "info"] == []


@over_both
async def test_no_request_of_who_left_is_served_after_that(tls: bool) -> None:
    served: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        served.append(scope["path"])
        await _disconnect(receive, send)

    async with open_server(app, tls=tls) as server, server.connect() as client:
        await client.send(GET + get("/more") * 10)
        await trio.testing.wait_all_tasks_blocked(0.01)
        client.leave("close")
        await server.all_gone()
    assert served == ["/"]


async def test_no_request_of_who_left_after_an_answer_is_served() -> None:
    served: list[str] = []
    answered, go_on = trio.Event(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        served.append(scope["path"])
        await answer(send)
        answered.set()
        await go_on.wait()

    async with open_server(app) as server, server.connect() as client:
        await client.send(GET + get("/more"))
        await answered.wait()
        client.leave("close")
        await trio.testing.wait_all_tasks_blocked(0.01)
        go_on.set()
        await server.all_gone()
    assert served == ["/"]


async def test_a_client_s_end_takes_no_other_client_with_it() -> None:
    waiting = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await waiting.wait()
        await answer(send, b"served")

    async with open_server(app) as server, server.connect() as slow:
        await slow.send(get("/slow"))
        for way in ("close", "reset", "half-close"):
            async with server.connect() as client:
                await client.send(get("/slow"))
                await trio.sleep(0.01)
                client.leave(way)
        waiting.set()
        assert (await slow.answer()).body == b"served"


@pytest.mark.parametrize("before", [b"", GET], ids=["first", "later"])
async def test_an_end_that_comes_with_part_of_a_request_is_seen(before: bytes) -> None:
    async with open_server(echo) as server, server.connect() as client:
        if before:
            await client.ask(before)
        await trio.testing.wait_all_tasks_blocked(0.005)
        # No checkpoint: one wake-up is all there is for both.
        client.raw.socket._sock.send(GET[:10])  # type: ignore[attr-defined]
        client.leave("half-close")
        with trio.fail_after(1):
            assert await client.ending() == "fin"


# -- the server ends ---------------------------------------------------------------------------------------------------


@over_both
async def test_idle_connections_end_with_the_server(tls: bool) -> None:
    async with open_server(echo, tls=tls) as server, server.connect() as new, server.connect() as used:
        await used.ask(GET)
        await trio.testing.wait_all_tasks_blocked(0.005)
        server.connections.finish()
        with trio.fail_after(1):
            assert await new.ending() == "fin"
            assert await used.ending() == "fin"
            await server.all_gone()


@pytest.mark.parametrize("sent", [0, 10, 100])
async def test_a_handshake_in_progress_does_not_hold_the_end_of_the_server(sent: int) -> None:
    outgoing = ssl.MemoryBIO()
    handshake = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
    with suppress(ssl.SSLWantReadError):
        handshake.do_handshake()
    hello = outgoing.read()
    async with (
        open_server(echo, tls=True, header_timeout=3600, drain_timeout=3600) as server,
        await connect(server.port) as client,
    ):
        await client.send_all(hello[:sent])
        while not server.connections._handshakes:  # noqa: ASYNC110 - the server tells nobody
            await trio.sleep(0.002)
        server.gate.start()
        with suppress(trio.BrokenResourceError):  # a reset is an end too
            assert await client.receive_some() == b""
        await server.all_gone()


@over_both
async def test_a_head_that_has_begun_ends_with_the_server(tls: bool) -> None:
    async with open_server(echo, tls=tls) as server, server.connect() as client:
        await client.send(GET[:10])
        await trio.testing.wait_all_tasks_blocked(0.005)
        server.connections.finish()
        with trio.fail_after(1):
            assert await client.ending() == "fin"


@over_both
@pytest.mark.parametrize("kind", ["an answer that takes time", "an upload", "a long answer"])
async def test_running_requests_finish(kind: str, tls: bool) -> None:
    go_on, begun = trio.Event(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        if kind == "a long answer":
            await start(send)
            await part(send, b"before ")
        await go_on.wait()
        body = await read_body(receive)
        if kind == "a long answer":
            await end(send, b"after")
        else:
            await answer(send, b"finished " + body)

    async with open_server(app, tls=tls) as server, server.connect() as client:
        await client.send(post(length=4) if kind == "an upload" else GET)
        await begun.wait()
        server.connections.finish()
        go_on.set()
        uploaded = b"body" if kind == "an upload" else b""
        for piece in (uploaded[:2], uploaded[2:]):  # it goes on being read while the server ends
            await trio.sleep(0.02)
            await client.send(piece)
        answered = await client.answer("POST" if kind == "an upload" else "GET")
        assert answered.complete
        assert answered.body == (b"before after" if kind == "a long answer" else b"finished " + uploaded)
        with trio.fail_after(1):
            assert await client.ending() == "fin"


async def test_a_body_is_waited_for_also_where_its_head_came_with_the_end_of_the_server() -> None:
    async with open_server(echo) as server, server.connect() as client:
        await client.ask(GET)
        await trio.testing.wait_all_tasks_blocked(0.005)
        server.connections.finish()
        # No checkpoint: both are there when the connection wakes.
        client.raw.socket._sock.send(post(length=4))  # type: ignore[attr-defined]
        await trio.sleep(0.05)
        await client.send(b"body")
        answered = await client.answer("POST")
        assert answered.body == b"POST / body"
        assert await client.ending() == "fin"


async def test_the_end_of_the_idle_time_is_not_the_end_of_a_request_that_comes_with_it() -> None:
    async with open_server(echo) as server, server.connect() as client:
        await client.ask(GET)
        await trio.testing.wait_all_tasks_blocked(0.005)
        (connection,) = server.connections.open
        connection.stop()
        client.raw.socket._sock.send(post(length=4))  # type: ignore[attr-defined]
        await trio.sleep(0.05)
        await client.send(b"body")
        assert (await client.answer("POST")).body == b"POST / body"


async def test_a_connection_that_comes_while_the_server_ends_is_served_what_it_has_sent() -> None:
    async with open_server(echo) as server:
        server.connections.finish()
        async with server.connect() as client:
            # Served, or told by the end that it was not: nothing in between.
            received = b""
            with suppress(trio.BrokenResourceError):
                await client.send(GET_CLOSE)
                received = await client.rest()
            assert received == b"" or received.endswith(b"GET / ")


@over_both
async def test_a_server_that_is_cancelled_closes_all(tls: bool) -> None:
    cancelled: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(scope["path"])
            raise

    servers: list[Server] = []
    with pytest.raises(ExceptionGroup) as raised:
        async with open_server(app, tls=tls) as server, server.connect(), server.connect() as busy:
            await busy.send(GET)
            await trio.testing.wait_all_tasks_blocked(0.01)
            servers.append(server)
            raise KeyError("the test's")
    assert raised.group_contains(KeyError)
    assert cancelled == ["/"]
    shared = servers[0].connections
    assert shared.open == set()
    assert shared.count == 0
    assert shared.readiness._watched == {}


async def test_an_application_may_give_up_waiting_for_the_end_and_wait_again() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert not (await receive())["more_body"]
        for _ in range(2):
            with trio.CancelScope() as waiting:
                waiting.cancel()
                await receive()
        await answer(send, b"not yet")

    async with open_server(app) as server, server.connect() as client:
        assert (await client.ask(GET)).body == b"not yet"
