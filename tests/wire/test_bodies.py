"""What clients send: bodies are pulled, and their senders held."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import pytest
import trio

from app.errors import RequestTimeout
from app.wire.asgi import PEER, Receive, Scope, Send
from app.wire.chunked import MOST_AT_ONCE
from app.wire.transport import READ_BYTES
from tests.wire.serving import (
    GET,
    HOST,
    MUCH,
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
    push,
    read_body,
    start,
)

# -- read --------------------------------------------------------------------------------------------------------------


@over_both
async def test_a_body_comes_with_its_head_or_after_it(tls: bool) -> None:
    async with open_server(echo, tls=tls) as server, server.connect() as client:
        for body in (b"", b"x", bytes(70_000), bytes(1 << 20)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, post(body))
                assert (await client.answer("POST")).body == b"POST / " + body


@over_both
async def test_chunks_come_without_their_framing(tls: bool) -> None:
    async with open_server(echo, tls=tls) as server, server.connect() as client:
        answered = await client.ask(post_chunked(b"one", b"two" * 40_000))
        assert answered.body == b"POST / one" + b"two" * 40_000


async def test_tiny_chunks_leave_the_others_their_turn() -> None:
    """However many have come at once: between each `MOST_AT_ONCE` of them."""
    turn = 0
    taken: list[tuple[int, int]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            message = await receive()
            taken.append((len(message["body"]), turn))
            more = message["more_body"]
        await answer(send)

    async with open_server(app) as server, server.connect() as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.send, post_chunked(*[b"x"] * 20_000))

        async def others() -> None:
            nonlocal turn
            while True:
                turn += 1
                await trio.lowlevel.checkpoint()

        nursery.start_soon(others)
        assert (await client.answer("POST")).status == 200
        nursery.cancel_scope.cancel()
    assert sum(size for size, _ in taken) == 20_000
    assert max(size for size, _ in taken) == MOST_AT_ONCE
    full = [turn for size, turn in taken if size == MOST_AT_ONCE]
    assert full[-1] - full[0] >= len(full) - 2  # Trio changes who is first


async def test_a_request_s_trailers_are_no_part_of_its_body_nor_the_next_request() -> None:
    async with open_server(echo) as server, server.connect() as client:
        await client.send(post_chunked(b"body", trailers=b"X-Sum: 1\r\nGet: /\r\n") + GET)
        assert (await client.answer("POST")).body == b"POST / body"
        assert (await client.answer()).body == b"GET / "


async def test_a_body_ends_once() -> None:
    seen: list[tuple[bytes, bool]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            seen.append((message["body"], more))
        await answer(send)

    async with open_server(app) as server, server.connect() as client:
        await client.ask(GET)
        await client.ask(post(b"abc"))
        await client.ask(post_chunked(b"abc"))
    assert [each for each in seen if not each[1]] == [(b"", False), (b"abc", False), seen[-1]]
    assert b"".join(body for body, _ in seen) == b"abcabc"


async def test_the_whole_way_back_is_open_while_a_body_comes() -> None:
    """An answer may go on while its request does."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        while (message := await receive())["more_body"]:
            await part(send, message["body"].upper())
        await end(send, message["body"].upper())

    async with open_server(app) as server, server.connect() as client:
        await client.send(post(length=6))
        received = b""
        for piece in (b"ab", b"cd", b"ef"):
            await client.send(piece)
            while piece.upper() not in received:
                received += await client.receive()
        assert b"connection" not in received
        while not received.endswith(b"0\r\n\r\n"):
            received += await client.receive()
        assert (await client.ask(GET)).status == 200


# -- held --------------------------------------------------------------------------------------------------------------


async def _until_held(sent: Sequence[int]) -> int:
    """Returns once no byte has left for a while; how many have."""
    before = -1
    while before != sum(sent):
        before = sum(sent)
        await trio.sleep(0.1)
    return before


@over_both
@pytest.mark.parametrize("reads", [0, 1], ids=["reads nothing", "reads once"])
async def test_a_sender_is_held_while_nobody_reads(reads: int, tls: bool) -> None:
    messages: list[int] = []
    done = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(reads):
            messages.append(len((await receive())["body"]))
        await done.wait()

    sent: list[int] = []
    async with open_server(app, tls=tls) as server, server.connect() as client, trio.open_nursery() as nursery:
        await client.send(post(length=10**12))
        nursery.start_soon(push, client, sent)
        held_at = await _until_held(sent)
        # The kernel's buffers of both sides, by tcp_rmem and tcp_wmem, and one read of ours.
        assert held_at < 12 * 1024 * 1024
        assert all(size <= READ_BYTES for size in messages)
        assert sum(messages) <= READ_BYTES * reads
        done.set()
        nursery.cancel_scope.cancel()


async def test_a_message_is_read_when_it_is_asked_for() -> None:
    asked, got = trio.open_memory_channel[None](0)
    bodies: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async for _ in got:
            bodies.append((await receive())["body"])
        await answer(send)

    async with open_server(app) as server, server.connect() as client:
        await client.send(post(length=6))
        for piece in (b"ab", b"cd", b"ef"):
            await client.send(piece)
            await trio.sleep(0.02)
            assert bodies == [b"ab", b"cd", b"ef"][: len(bodies)]
            await asked.send(None)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert bodies[-1] == piece
        asked.close()
        assert (await client.answer("POST")).status == 200


@over_both
async def test_our_own_backpressure_is_no_stall(tls: bool) -> None:
    stall = 0.15

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await trio.sleep(3 * stall)  # the client could send, had we room
        await answer(send, str(len(await read_body(receive))).encode())

    body = bytes(MUCH // 4)
    async with open_server(app, tls=tls, stall_timeout=stall) as server, server.connect() as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, post(body))
            answered = await client.answer("POST")
        assert answered.status == 200
        assert int(answered.body) > len(body) - READ_BYTES - 1


@over_both
async def test_an_upload_that_stalls_is_told_and_closed(tls: bool) -> None:
    async with open_server(echo, tls=tls, stall_timeout=0.2) as server, server.connect() as client:
        began = trio.current_time()
        await client.send(post(b"part", length=10))
        await trio.sleep(0.15)
        await client.send(b"more")  # time starts anew with each byte
        answered = await client.answer("POST")
        assert answered.status == 408
        assert answered.problem["type"] == "urn:sluice:error:request-timeout"
        assert trio.current_time() - began >= 0.35
        assert answered.closes
        assert await client.ending() == "fin"


async def test_the_application_learns_of_a_stall_by_its_error() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(RequestTimeout):
            await read_body(receive)
        await answer(send, b"told", status=408)

    async with open_server(app, stall_timeout=0.1) as server, server.connect() as client:
        assert (await client.ask(post(b"part", length=10))).body == b"told"


# -- bodies that are none ----------------------------------------------------------------------------------------------


@over_both
@pytest.mark.parametrize("read", [True, False], ids=["read", "not read"])
async def test_a_bad_chunk_is_answered_once_and_ends_its_connection(read: bool, tls: bool) -> None:
    bad = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3x\r\nabc\r\n0\r\n\r\n"
    served: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        served.append(scope["path"])
        if read:
            await echo(scope, receive, send)
        else:
            await answer(send, b"unread")

    async with open_server(app, tls=tls) as server:
        for _ in range(10):
            async with server.connect() as client:
                await client.send(bad + get("/smuggled"))
                answered = await client.answer("POST")
                assert answered.status == (400 if read else 200)
                assert answered.closes
                assert await client.ending() == "fin"
        assert (await server.ask(get("/after"))).status == 200
    assert "/smuggled" not in served


async def test_a_bad_chunk_in_a_body_that_is_skipped_ends_the_connection() -> None:
    """The answer was given, the rest is small enough to be dropped, and is malformed."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await end(send, (await receive())["body"])

    bad = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    async with open_server(app) as server, server.connect() as client:
        answered = await client.ask(bad)
        assert answered.body == b"abc"
        await client.send(b"zz\r\n" + GET)
        assert await client.ending() == "fin"


async def test_a_bad_chunk_after_the_answer_began_cuts_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, (b"content-length", b"100"))
        await part(send, b"begun")
        await read_body(receive)

    async with open_server(app) as server, server.connect() as client:
        await client.send(post_chunked(b"abc").replace(b"0\r\n", b"q\r\n") + GET)
        answered = await client.answer("POST")
        assert (answered.body, answered.complete) == (b"begun", False)
        assert await client.rest() == b""


# -- while a body comes, the client leaves -----------------------------------------------------------------------------


async def test_receive_goes_on_telling_of_the_end() -> None:
    told: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        gone = trio.Event()
        scope["extensions"][PEER].when_gone(gone.set)
        await gone.wait()
        told.extend([(await receive())["type"] for _ in range(3)])

    async with open_server(app) as server, await connect(server.port) as raw:
        await raw.send_all(post(b"part", length=10))
        raw.socket.shutdown(socket.SHUT_WR)
        await raw.receive_some(1)
    assert told == ["http.disconnect"] * 3
