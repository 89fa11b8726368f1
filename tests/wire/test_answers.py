"""What applications answer, as it comes out: its framing, and its trailers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from app.wire.asgi import WHOLE, Receive, Scope, Send
from tests.wire.serving import (
    GET,
    MUCH,
    answer,
    end,
    get,
    open_server,
    over_both,
    part,
    start,
)

_HEAD = b"HEAD" + GET[3:]


# -- framing -----------------------------------------------------------------------------------------------------------


@over_both
async def test_parts_of_unknown_length_come_in_chunks(tls: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        for data in (b"one", b"", b"two" * 100_000):
            await part(send, data)
        await end(send, b"last")

    async with open_server(app, tls=tls) as server, server.connect() as client:
        for _ in range(2):
            answered = await client.ask(GET)
            assert answered.fields[b"transfer-encoding"] == b"chunked"
            assert answered.body == b"one" + b"two" * 100_000 + b"last"


@over_both
async def test_a_large_answer_comes_whole(tls: bool) -> None:
    piece = bytes(range(256)) * 1024

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/parts":
            await start(send, (b"content-length", b"%d" % (64 * len(piece))))
            for _ in range(64):
                await part(send, piece)
            await end(send)
        else:
            await answer(send, piece * 64)

    async with open_server(app, tls=tls) as server, server.connect() as client:
        for path in ("/parts", "/whole"):
            answered = await client.ask(get(path))
            assert answered.body == piece * 64
            assert not answered.closes


@pytest.mark.parametrize("kind", [list, tuple, iter])
async def test_fields_may_come_in_any_iterable_also_of_lists(kind: Callable[[Any], Any]) -> None:
    """As ASGI has them."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": kind([[b"x-field", b"1"]])})
        await end(send, b"data")

    async with open_server(app) as server, server.connect() as client:
        answered = await client.ask(GET)
        assert (answered.fields[b"x-field"], answered.body) == (b"1", b"data")


@pytest.mark.parametrize("size", [3, 100_000])
async def test_an_answer_in_one_message(size: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": WHOLE, "status": 201, "headers": [(b"x-field", b"1")], "body": bytes(size)})

    async with open_server(app) as server, server.connect() as client:
        for _ in range(2):
            answered = await client.ask(GET)
            assert (answered.status, answered.body) == (201, bytes(size))
            assert answered.fields[b"content-length"] == b"%d" % size
            assert answered.fields[b"x-field"] == b"1"
        assert (await client.ask(_HEAD)).fields[b"content-length"] == b"%d" % size


@over_both
async def test_head_says_what_get_would_and_has_no_body(tls: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        match scope["path"]:
            case "/length":
                await answer(send, b"12345")
            case "/chunks":
                await start(send)
                await part(send, b"12345")
                await end(send)
            case _:
                await answer(send, b"", (b"content-length", b"5"))

    async with open_server(app, tls=tls) as server, server.connect() as client:
        for path in ("/length", "/chunks", "/left out"):
            answered = await client.ask(b"HEAD" + get(path.partition(" ")[0])[3:])
            if path == "/chunks":
                assert answered.fields[b"transfer-encoding"] == b"chunked"
            else:
                assert answered.fields[b"content-length"] == b"5"
        assert (await client.ask(get("/length"))).body == b"12345"


@pytest.mark.parametrize("status", [204, 304])
async def test_what_has_no_body_has_none(status: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"what the application says all the same", status=status)

    async with open_server(app) as server, server.connect() as client:
        for _ in range(2):
            answered = await client.ask(GET)
            assert (answered.status, answered.body) == (status, b"")


@over_both
async def test_trailers_go_to_who_takes_them(tls: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, (b"trailer", b"X-Sum"), (b"content-length", b"4"), trailers=True)
        await part(send, b"bo")
        await end(send, b"dy")
        await send({"type": "http.response.trailers", "headers": [(b"X-One", b"1")], "more_trailers": True})
        await send({"type": "http.response.trailers", "headers": [(b"X-Sum", b"2")]})

    async with open_server(app, tls=tls) as server, server.connect() as client:
        answered = await client.ask(get("/", b"TE: trailers", b"Connection: TE"))
        assert answered.body == b"body"
        assert answered.trailers == [(b"x-one", b"1"), (b"x-sum", b"2")]
        answered = await client.ask(GET)
        assert (answered.body, answered.trailers) == (b"body", [])
        assert answered.fields[b"content-length"] == b"4"
        assert (await client.ask(_HEAD)).complete


async def test_trailers_are_offered_to_who_takes_them() -> None:
    offered: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        offered.append("http.response.trailers" in scope["extensions"])
        await answer(send)

    async with open_server(app) as server, server.connect() as client:
        await client.ask(get("/", b"TE: trailers", b"Connection: TE"))
        await client.ask(GET)
    assert offered == [True, False]


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_who_sends_without_pause_does_not_hold_up_another(framing: str) -> None:
    """A client on this machine takes it all: none of its writes ever waits."""
    ended = False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal ended
        if scope["path"] == "/one":
            await answer(send, b"ended" if ended else b"")
            return
        await start(send, *([(b"content-length", b"2000000")] if framing == "length" else []))
        for _ in range(2000):
            await part(send, bytes(1000))
        ended = True
        await end(send)

    async with open_server(app) as server, server.connect(8 << 20) as many, server.connect() as one:
        await one.ask(get("/one"))
        await many.send(GET)
        assert (await one.ask(get("/one"))).body == b""
        assert len((await many.answer()).body) == 2_000_000


async def test_who_sends_to_a_head_for_ever_ends_with_its_client() -> None:
    ended = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET":
            await answer(send, b"served")
            return
        await start(send)
        with pytest.raises(OSError, match="left"):
            for _ in range(100_000):  # for ever, unless the test fails
                await part(send, b"unheard")
        ended.set()

    async with open_server(app) as server, server.connect() as client:
        await client.send(_HEAD)
        assert (await server.ask(GET)).body == b"served"
        client.leave("close")
        await ended.wait()


# -- readers -----------------------------------------------------------------------------------------------------------


@over_both
async def test_a_reader_that_is_slow_is_not_one_that_stalls(tls: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, bytes(3 * 1024 * 1024))

    received = 0
    async with open_server(app, tls=tls, stall_timeout=0.3) as server, server.connect() as client:
        await client.send(GET)
        began = trio.current_time()
        while trio.current_time() < began + 0.7:
            received += len(await client.receive(16_384))
            await trio.sleep(0.01)
        while received < 3 * 1024 * 1024:
            data = await client.receive()
            assert data, "it was cut"
            received += len(data)


@over_both
async def test_a_reader_that_stalls_is_cut(tls: bool) -> None:
    ended = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(OSError, match="left"):
            await answer(send, bytes(MUCH))
        ended.set()

    async with open_server(app, tls=tls, stall_timeout=0.2) as server, server.connect() as client:
        await client.send(GET)
        await ended.wait()
        assert not (await client.answer()).complete
