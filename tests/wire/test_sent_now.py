"""Parts of an answer that are sent without waiting, between those that are waited for."""

from __future__ import annotations

import trio

from app.wire.asgi import Receive, Scope, Send, send_now_of
from tests.wire.serving import GET, MUCH, end, open_server, over_both, part, start


@over_both
async def test_they_come_in_order_whatever_went_at_once(tls: bool) -> None:
    all_went: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        send_now = send_now_of(scope)
        assert send_now is not None
        await start(send)
        await part(send, b"first ")
        for number in range(50):
            all_went.append(send_now(b"%d " % number))
            if not all_went[-1]:
                await part(send, b"")
        await part(send, b"between ")
        all_went.append(send_now(b"now "))
        await end(send, b"last")

    async with open_server(app, tls=tls) as server, server.connect() as client:
        for _ in range(2):
            answered = await client.ask(GET)
            numbers = b"".join(b"%d " % number for number in range(50))
            assert answered.body == b"first " + numbers + b"between now last"
            assert answered.complete
    assert all(all_went) != tls


async def test_what_does_not_go_at_once_goes_with_the_next() -> None:
    large = bytes(range(256)) * (MUCH // 256)
    went: list[bool] = []
    sent = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        send_now = send_now_of(scope)
        assert send_now is not None
        await start(send)
        await part(send, b"first")
        went.append(send_now(large))
        sent.set()
        await part(send, b"")
        await end(send, b"last")

    async with open_server(app) as server, server.connect() as client:
        await client.send(GET)
        await sent.wait()
        answered = await client.answer()
        assert answered.body == b"first" + large + b"last"
    assert went == [False]


async def test_to_one_that_has_left_nothing_is_sent() -> None:
    ended = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        send_now = send_now_of(scope)
        assert send_now is not None
        await start(send)
        await part(send, b"first")
        while (await receive())["type"] != "http.disconnect":
            pass
        assert send_now(b"nobody gets it")
        ended.set()

    async with open_server(app) as server, server.connect() as client:
        await client.send(GET)
        await client.receive()
        client.leave("reset")
        with trio.fail_after(20):
            await ended.wait()
