"""What clients send and nobody wants: it is not sent, or dropped, within limits, and never taken for a request."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from app.wire.asgi import Receive, Scope, Send
from tests.wire.serving import (
    GET,
    answer,
    echo,
    end,
    get,
    open_server,
    over_both,
    part,
    post,
    post_chunked,
    push,
    read_body,
    start,
)


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers before it has read a byte."""
    if scope["method"] == "GET":
        await answer(send, b"next")
    else:
        await answer(send, b"no" * 1000, status=413)


async def take_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, scope["path"].encode())


# -- what nobody wants -------------------------------------------------------------------------------------------------


@over_both
@pytest.mark.parametrize("come", ["with the head", "after the answer"])
async def test_a_small_body_that_nobody_reads_is_skipped(come: str, tls: bool) -> None:
    body = get("/smuggled") * 1000
    assert len(body) < 64 * 1024
    async with open_server(take_nothing, tls=tls) as server, server.connect() as client:
        for number in range(3):
            path = f"/{number}"
            if come == "with the head":
                answered = await client.ask(post(body, path=path))
            else:
                answered = await client.ask(post(path=path, length=len(body)))
                await client.send(body)
            assert answered.body == path.encode()
            assert not answered.closes
        assert (await client.ask(get("/last"))).body == b"/last"


async def test_a_body_that_is_read_in_part_is_skipped_to_its_end() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, (await receive())["body"])

    async with open_server(app) as server, server.connect() as client:
        answered = await client.ask(post(b"abc", length=60_000))
        assert not answered.closes
        await client.send(bytes(60_000 - 3) + GET)
        assert (await client.answer()).complete


async def test_what_is_left_of_a_small_body_is_not_waited_for_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.wire.connection._LINGER_SECONDS", 0.1)
    async with open_server(take_nothing) as server, server.connect() as client:
        await client.ask(post(length=1000))
        assert await client.ending() == "fin"


@over_both
@pytest.mark.parametrize("body", ["long", "chunked"])
async def test_a_body_of_unknown_or_great_size_that_nobody_reads_ends_the_connection(body: str, tls: bool) -> None:
    request = post(bytes(65_537)) if body == "long" else post_chunked(b"some", b"more")
    async with open_server(take_nothing, tls=tls) as server, server.connect() as client:
        await client.send(request + get("/more"))
        answered = await client.answer("POST")
        assert answered.closes
        assert await client.ending() == "fin"


@over_both
async def test_an_early_answer_reaches_a_client_that_goes_on_sending(tls: bool) -> None:
    """A close with bytes unread would reset the connection, and the answer with it (RFC 9112 9.6)."""
    body = bytes(8 * 1024 * 1024)
    async with open_server(refuse, tls=tls) as server, server.connect() as client:
        await client.send(post(body) + get("/more"))  # all of it, before the answer is looked at
        answered = await client.answer("POST")
        assert (answered.status, answered.complete, answered.closes) == (413, True, True)
        assert await client.ending() == "fin"


@over_both
@pytest.mark.parametrize("limit", ["bytes", "seconds"])
async def test_what_comes_after_the_last_answer_is_dropped_up_to_a_limit(
    limit: str, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit == "seconds":
        monkeypatch.setattr("app.wire.connection._LINGER_SECONDS", 0.2)
    else:
        monkeypatch.setattr("app.wire.connection._LINGER_BYTES", 1024 * 1024)
    sent: list[int] = []
    async with open_server(refuse, tls=tls) as server, server.connect() as client:
        await client.send(post(length=10**12))
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            if limit == "bytes":
                nursery.start_soon(push, client, sent)
            assert (await client.answer("POST")).status == 413
            await server.all_gone()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began < 1
        if limit == "seconds":
            assert trio.current_time() - began >= 0.2


async def test_who_lingers_is_dropped_when_the_server_ends() -> None:
    async with open_server(take_nothing) as server, server.connect() as client:
        await client.ask(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert server.connections.open
        server.connections.finish()
        with trio.fail_after(1):
            await server.all_gone()


# -- Expect: 100-continue ----------------------------------------------------------------------------------------------


@over_both
async def test_100_is_said_when_the_body_is_asked_for(tls: bool) -> None:
    async with open_server(echo, tls=tls) as server, server.connect() as client:
        for _ in range(2):
            await client.send(post(b"", b"Expect: 100-continue", length=4))
            received = b""
            while not received.endswith(b"\r\n\r\n"):
                received += await client.receive()
            assert received == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"body")
            answered = await client.answer("POST")
            assert (answered.status, answered.body) == (200, b"POST / body")
            assert not answered.closes


async def test_100_is_not_said_once_the_answer_has_begun() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await part(send, b"begun ")
        await end(send, await read_body(receive))

    async with open_server(app) as server, server.connect() as client:
        await client.send(post(b"", b"Expect: 100-continue", length=4))
        received = await client.receive()
        while b"begun" not in received:
            received += await client.receive()
        await client.send(b"body")
        while b"body" not in received:
            received += await client.receive()
    assert b" 100 " not in received


@over_both
async def test_100_is_not_said_where_the_body_is_there_already(tls: bool) -> None:
    async with open_server(echo, tls=tls) as server, server.connect() as client:
        answered = await client.ask(post(b"body", b"Expect: 100-continue"))
        assert (answered.informational, answered.body) == ([], b"POST / body")


async def test_100_is_not_said_to_http_1_0() -> None:
    async with open_server(echo) as server, server.connect() as client:
        await client.send(b"POST / HTTP/1.0\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        with trio.move_on_after(0.05):
            pytest.fail(f"{await client.receive()!r} came before the body")
        await client.send(b"body")
        assert (await client.answer("POST")).informational == []


@over_both
@pytest.mark.parametrize("size", [len(GET), 10**6], ids=["a small body", "a large body"])
async def test_who_is_answered_without_100_is_not_waited_for(size: int, tls: bool) -> None:
    """It may send its body or not (RFC 9110 10.1.1): what follows could be either, and is neither."""
    async with open_server(refuse, tls=tls) as server, server.connect() as client:
        answered = await client.ask(post(b"", b"Expect: 100-continue", length=size))
        assert (answered.status, answered.informational) == (413, [])
        assert answered.closes
        await client.send(GET)
        assert await client.ending() == "fin"


@over_both
@pytest.mark.parametrize("fields", [(), (b"Expect: 100-continue",)], ids=["a large body", "a body that waits for 100"])
async def test_an_answer_that_went_on_without_the_body_ends_the_connection(fields: Sequence[bytes], tls: bool) -> None:
    """When it began it might still have been read."""
    served: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        served.append(scope["path"])
        await start(send)
        await part(send, b"begun ")
        await end(send, b"ended")

    async with open_server(app, tls=tls) as server, server.connect() as client:
        answered = await client.ask(post(b"", *fields, length=len(GET) if fields else 10**6))
        assert (answered.body, answered.closes) == (b"begun ended", False)
        await client.send(GET if fields else bytes(10**6) + GET)
        assert await client.ending() == "fin"
    assert served == ["/"]


@over_both
async def test_100_and_an_answer_of_another_task_do_not_collide(tls: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.lowlevel.checkpoint()
            await answer(send, b"early")
            nursery.cancel_scope.cancel()

    async with open_server(app, tls=tls) as server:
        for _ in range(10):
            async with server.connect() as client:
                answered = await client.ask(post(b"", b"Expect: 100-continue", length=10))
                assert (answered.status, answered.body) == (200, b"early")
