"""Connections of HTTP/1.1, over real sockets: one request after the other, and whose turn it is."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio
import trio.testing

from app.wire.asgi import Receive, Scope, Send
from app.wire.transport import PlainTransport
from tests.wire.serving import (
    GET,
    GET_CLOSE,
    HOST,
    Server,
    answer,
    echo,
    get,
    open_descriptors,
    open_server,
    over_both,
    part,
    post,
    post_chunked,
    read_body,
    start,
)

# -- one after the other -----------------------------------------------------------------------------------------------


@over_both
async def test_requests_follow_each_other_on_one_connection(tls: bool) -> None:
    async with open_server(echo, tls=tls) as server, server.connect() as client:
        for number in range(5):
            answered = await client.ask(get(f"/{number}"))
            assert (answered.status, answered.body) == (200, f"GET /{number} ".encode())
            assert not answered.closes
        assert (await client.ask(post(b"body"))).body == b"POST / body"
        assert server.connections.count == 1


@over_both
async def test_connection_close_ends_it_after_the_answer(tls: bool) -> None:
    async with open_server(echo, tls=tls) as server, server.connect() as client:
        answered = await client.ask(GET_CLOSE)
        assert answered.complete
        assert answered.closes
        with trio.fail_after(1):  # a client that waits for it gets the end at once
            assert await client.ending() == "fin"


async def test_nothing_is_served_after_connection_close() -> None:
    async with open_server(echo) as server, server.connect() as client:
        await client.send(GET_CLOSE + get("/more"))
        assert (await client.answer()).body == b"GET / "
        assert await client.ending() == "fin"


@over_both
async def test_pipelined_requests_are_answered_in_order(tls: bool) -> None:
    first = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/0":
            await first.wait()
        await echo(scope, receive, send)

    async with open_server(app, tls=tls) as server, server.connect() as client:
        await client.send(b"".join(get(f"/{number}") for number in range(3)))
        with trio.move_on_after(0.05):
            assert await client.receive() == b"", "an answer came before its turn"
        first.set()
        for number in range(3):
            assert (await client.answer()).body == f"GET /{number} ".encode()


@over_both
async def test_a_segment_full_of_requests_is_answered_to_the_last(tls: bool) -> None:
    count = 1500
    async with open_server(echo, tls=tls) as server, server.connect() as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.send, b"".join(get(f"/{number}") for number in range(count)) + GET_CLOSE)
        received = await client.rest()
    bodies = [each.rpartition(b"GET /")[2] for each in received.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert bodies == [b"%d " % number for number in range(count)] + [b" "]


@over_both
async def test_pipelined_bodies_are_each_their_own_request_s(tls: bool) -> None:
    requests = post(b"one") + post_chunked(b"tw", b"o") + GET + post_chunked() + post(GET) + get("/last")
    async with open_server(echo, tls=tls) as server, server.connect() as client:
        await client.send(requests)
        bodies = [(await client.answer()).body for _ in range(6)]
    assert bodies == [b"POST / one", b"POST / two", b"GET / ", b"POST / ", b"POST / " + GET, b"GET /last "]


async def test_a_client_that_pipelines_does_not_hold_up_another() -> None:
    """Its requests are answered without ever waiting; between two of them it is the others' turn."""
    served: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        served.append(scope["path"])
        await answer(send)

    async with open_server(app) as server, server.connect(1 << 20) as many, server.connect() as one:
        await one.ask(get("/first"))
        await many.ask(get("/first"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(many.send, get("/many") * 1000)
            nursery.start_soon(one.send, get("/one"))
            nursery.start_soon(one.answer)
            for _ in range(1000):
                await many.answer()
    assert served.index("/one") < 500


async def test_a_client_that_sends_without_pause_does_not_hold_up_another() -> None:
    """One whose next request is always there already, and each of them a read of its own."""
    served: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        served.append(scope["path"])
        if len(served) == 1:  # the rest waits in the kernel, a read's worth at a time
            await trio.sleep(0.05)
        await answer(send)

    head = get("/many", b"X-Filler: " + b"x" * (65_536 - len(get("/many", b"X-Filler: "))))
    async with (
        open_server(app, max_head_bytes=65_536) as server,
        server.connect(1 << 20) as many,
        server.connect() as one,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(many.send, head * 100)
        nursery.start_soon(one.ask, get("/one"))
        for _ in range(100):
            await many.answer()
    assert served.index("/one") < 50


# -- heads that are the same, to the byte ------------------------------------------------------------------------------


@over_both
async def test_a_request_that_is_the_same_as_the_last_is_a_request_of_its_own(tls: bool) -> None:
    async with open_server(echo, tls=tls) as server, server.connect() as client:
        for request in (get("/a"), get("/a"), get("/b"), get("/a"), get("/b"), get("/b")):
            assert (await client.ask(request)).body == request[: request.index(b" HTTP")] + b" "


async def test_what_an_application_does_to_its_headers_is_not_the_next_request_s() -> None:
    seen: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(len(scope["headers"]))
        scope["headers"].clear()
        scope["extensions"].clear()
        await answer(send)

    async with open_server(app) as server, server.connect() as client:
        for _ in range(3):
            await client.ask(GET)
    assert seen == [1, 1, 1]


@over_both
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_head_that_came_alone_before_is_no_request_without_its_body(chunked: bool, tls: bool) -> None:
    """The body is a request too, for whoever takes it for one: that would be smuggled."""
    body = get("/smuggled")
    request = post_chunked(body) if chunked else post(body)
    at = request.index(b"\r\n\r\n") + 4
    async with open_server(echo, tls=tls) as server, server.connect() as client:
        for _ in range(3):
            await client.send(request[:at])
            await trio.sleep(0.02)  # a segment of its own
            await client.send(request[at:])
            assert (await client.answer("POST")).body == b"POST / " + body
        assert (await client.ask(GET)).body == b"GET / "


async def test_the_last_request_s_bytes_in_a_body_are_body() -> None:
    async with open_server(echo) as server, server.connect() as client:
        for _ in range(2):
            await client.ask(GET)
        await client.send(post(b"", length=2 * len(GET)))
        for _ in range(2):
            await trio.sleep(0.02)
            await client.send(GET)
        assert (await client.answer("POST")).body == b"POST / " + GET + GET
        assert (await client.ask(GET)).body == b"GET / "


async def test_the_last_request_s_bytes_after_part_of_a_head_are_part_of_it() -> None:
    async with open_server(echo) as server, server.connect() as client:
        await client.ask(GET)
        await client.send(b"GET /other HTTP/1.1\r\nX-Field: ")
        await trio.sleep(0.02)
        await client.send(GET)
        assert (await client.answer()).body == b"GET /other "
        # "X-Field: GET / HTTP/1.1", then the host: one head, and no more than one answer.
        await client.send(get("/next"))
        assert (await client.answer()).body == b"GET /next "


@over_both
async def test_before_each_request_one_empty_line_is_skipped_and_no_second(tls: bool) -> None:
    """RFC 9112 2.2; also before one that is the same as the last."""
    async with open_server(echo, tls=tls) as server, server.connect() as client:
        await client.ask(GET)
        for _ in range(3):
            await client.send(b"\r\n")
            await trio.testing.wait_all_tasks_blocked(0.005)  # each in a segment of its own
            assert (await client.ask(GET)).body == b"GET / "
        await client.send(b"\r\n" + GET)
        assert (await client.answer()).body == b"GET / "
        for empty in (b"\r\n", b"\r\n"):
            await client.send(empty)
            await trio.testing.wait_all_tasks_blocked(0.005)
        await client.send(GET)
        assert (await client.answer()).status == 400
        assert await client.ending() == "fin"


# -- bytes of all kinds, at all times ----------------------------------------------------------------------------------


async def _send_in_pieces(send: Callable[[bytes], Any], data: bytes, chance: random.Random) -> None:
    at = 0
    while at < len(data):
        size = chance.choice((1, 7, 100, 5000, 65_536, 70_000))
        await send(data[at : at + size])
        at += size
        if chance.random() < 0.3:
            await trio.sleep(chance.random() * 0.005)


async def _converse(server: Server, seed: int) -> None:
    chance = random.Random(seed)
    async with server.connect() as client:
        for _ in range(8):
            body = chance.randbytes(chance.choice((0, 1, 100, 65_536, 65_537, 200_000)))
            if chance.random() < 0.5:
                cuts = sorted(chance.randrange(len(body) + 1) for _ in range(3))
                chunks = [body[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(body)], strict=True)]
                request = post_chunked(*filter(None, chunks))
            else:
                request = post(body)
            repeated = chance.choice((1, 1, 2))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_send_in_pieces, client.send, request * repeated, chance)
                for _ in range(repeated):
                    assert (await client.answer("POST")).body == b"POST / " + body


@over_both
async def test_no_byte_is_missed_however_it_comes(tls: bool) -> None:
    """Readiness is told once; whoever misses it waits for ever."""
    async with open_server(echo, tls=tls) as server, trio.open_nursery() as nursery:
        for seed in range(12):
            nursery.start_soon(_converse, server, seed)


# -- what it costs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "said by the application", "chunked at once"])
async def test_a_small_answer_leaves_in_one_write(framing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        match framing:
            case "length":
                await answer(send, b"small")
            case "said by the application":
                await answer(send, b"small", (b"content-length", b"5"))
            case _:
                await start(send)
                await part(send, b"small")
                await trio.sleep_forever()

    written: list[int] = []
    writev = os.writev

    def count(descriptor: int, buffers: Sequence[Any]) -> int:
        written.append(writev(descriptor, buffers))
        return written[-1]

    async with open_server(app) as server, server.connect() as client:
        monkeypatch.setattr(os, "writev", count)
        await client.send(GET)
        received = await client.receive()
        assert written == [len(received)]
        assert b"small" in received
        client.leave("close")
        if framing == "chunked at once":
            for connection in server.connections.open:
                connection._scope.cancel()


async def test_what_is_sent_is_not_held_back_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    receive = PlainTransport.receive

    async def look(self: PlainTransport, *arguments: Any, **more: Any) -> bytes:
        seen.append(self._stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        return await receive(self, *arguments, **more)

    monkeypatch.setattr(PlainTransport, "receive", look)
    async with open_server(echo) as server:
        await server.ask(GET)
    assert seen
    assert all(seen)


@over_both
async def test_connections_leave_nothing_behind(tls: bool) -> None:
    count = 200 if tls else 2000
    ways = ("close", "reset", "half-close")

    async def visit(server: Server, number: int) -> None:
        async with server.connect() as client:
            match number % 5:
                case 0:
                    pass
                case 1:
                    await client.send(GET[:10])
                case 2:
                    await client.ask(GET_CLOSE)
                case 3:
                    await client.ask(post(b"body"))
                case _:
                    await client.send(post(b"part", length=100))
            client.leave(ways[number % 3])
            if ways[number % 3] == "half-close":
                await client.rest()

    async with open_server(echo, tls=tls) as server:
        await server.ask(GET_CLOSE)
        await server.all_gone()
        before = open_descriptors()
        for batch in range(count // 50):
            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(visit, server, batch * 50 + number)
        await server.all_gone()
        assert open_descriptors() == before
        shared = server.connections
        assert not shared.readiness._watched
        assert not shared.idle._due
        assert not shared.heads._due
        assert shared.count == 0


# -- HTTP/1.0 ----------------------------------------------------------------------------------------------------------


@over_both
async def test_http_1_0_ends_with_its_answer_unless_asked_to_go_on(tls: bool) -> None:
    async with open_server(echo, tls=tls) as server:
        async with server.connect() as client:
            answered = await client.ask(b"GET / HTTP/1.0\r\n\r\n")
            assert (answered.body, answered.complete) == (b"GET / ", True)
            assert await client.ending() == "fin"
        async with server.connect() as client:
            for _ in range(2):
                answered = await client.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                assert answered.fields[b"connection"] == b"keep-alive"
            assert (await client.ask(b"GET / HTTP/1.0\r\n" + HOST + b"\r\n")).closes
            assert await client.ending() == "fin"


@over_both
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
async def test_an_answer_that_lasts_until_the_close_is_cut_by_a_reset(cut: bool, tls: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await part(send, b"half")
        if cut:
            raise ValueError
        await part(send, b"half")
        await send({"type": "http.response.body"})

    async with open_server(app, tls=tls) as server, server.connect() as client:
        answered = await client.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert b"transfer-encoding" not in answered.fields
        assert answered.closes
        assert answered.complete is not cut
        if not cut:
            assert answered.body == b"halfhalf"
        assert await client.ending() == ("reset" if cut else "fin")


@pytest.mark.parametrize("behind", [b"", GET * 1000, bytes(300_000)], ids=["nothing", "requests", "much"])
async def test_an_answer_until_the_close_over_tls_says_that_it_has_ended(behind: bytes) -> None:
    """A client that is not lenient takes an end that was not announced for a cut (RFC 8446 6.1), also where it had sent
    more than was read."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await part(send, b"whole")
        await send({"type": "http.response.body"})

    async with open_server(app, tls=True) as server, server.connect() as client:
        client.stream._https_compatible = False  # type: ignore[union-attr]
        await client.send(b"GET / HTTP/1.0\r\n\r\n" + behind)
        assert (await client.rest()).endswith(b"whole")
        assert await client.ending() == "fin"


async def test_a_body_that_is_read_is_there_whole_with_http_1_0() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["http_version"] == "1.0"
        await answer(send, await read_body(receive))

    async with open_server(app) as server:
        assert (await server.ask(b"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc")).body == b"abc"
