"""What is no answer, or no more than a part of one: no client takes it for more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import structlog
import trio

from app.errors import NotFound
from app.wire.asgi import PEER, WHOLE, Message, Receive, Scope, Send
from app.wire.response import BadAnswer
from tests.wire.serving import (
    GET,
    MUCH,
    answer,
    end,
    get,
    open_server,
    part,
    post,
    send_file,
    start,
)

over_both = pytest.mark.parametrize("tls", [False, True], ids=["cleartext", "TLS"])

_HEAD = b"HEAD" + GET[3:]


# -- what is no answer -------------------------------------------------------------------------------------------------


async def _raise(send: Send) -> None:
    raise ValueError("no client's business")


async def _return(send: Send) -> None:
    pass


async def _only_start(send: Send) -> None:
    await start(send, (b"x-field", b"never sent"))


async def _start_and_raise(send: Send) -> None:
    await start(send, (b"x-field", b"never sent"))
    raise ValueError


def _with(*fields: tuple[bytes, bytes], body: bytes = b"", status: int = 200) -> Callable[[Send], Awaitable[None]]:
    async def app(send: Send) -> None:
        await answer(send, body, *fields, status=status)

    return app


def _whole_with(*fields: tuple[bytes, bytes], body: bytes = b"") -> Callable[[Send], Awaitable[None]]:
    async def app(send: Send) -> None:
        await send({"type": WHOLE, "status": 200, "headers": fields, "body": body})

    return app


async def _file_too_long(send: Send) -> None:
    await start(send, (b"content-length", b"1"))
    await send_file(send, Path(__file__), 0, 2)


_NO_ANSWERS = {
    "raises": _raise,
    "returns": _return,
    "only a start": _only_start,
    "a start, then raises": _start_and_raise,
    "a line break in a value": _with((b"x-field", b"a\r\nX-Injected: 1")),
    "LF in a value": _with((b"x-field", b"a\nX-Injected: 1")),
    "CR in a value": _with((b"x-field", b"a\rX-Injected: 1")),
    "NUL in a value": _with((b"x-field", b"a\0")),
    "a line break in a name": _with((b"x-field: 1\r\nX-Injected", b"1")),
    "two lengths": _with((b"content-length", b"1"), (b"content-length", b"2"), body=b"a"),
    "a length that is none": _with((b"content-length", b"1, 1"), body=b"a"),
    "a negative length": _with((b"content-length", b"-1")),
    "too long": _with((b"content-length", b"1"), body=b"X-Injected: 1"),
    "too short": _with((b"content-length", b"100"), body=b"X-Injected: 1"),
    "whole, too long": _whole_with((b"content-length", b"1"), body=b"X-Injected: 1"),
    "whole, a line break": _whole_with((b"x-field", b"a\r\nX-Injected: 1")),
    "a file, too long": _file_too_long,
    "an interim status": _with(status=103),
    "no bytes": _with(("x-field", "text")),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("kind", _NO_ANSWERS)
async def test_what_cannot_be_sent_is_told_as_500(kind: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await _NO_ANSWERS[kind](send)
        else:
            await answer(send, b"served")

    with structlog.testing.capture_logs() as logs:
        async with open_server(app) as server:
            async with server.connect() as client:
                await client.send(GET + get("/more"))
                answered = await client.answer()
                assert answered.status == 500
                assert answered.problem["error"] == "Internal server error"
                assert answered.problem["request_id"].encode() == answered.fields[b"x-request-id"]
                assert answered.closes
                assert answered.fields.keys().isdisjoint({b"x-field", b"x-injected"})
                assert b"Injected" not in answered.body
                assert b"business" not in answered.body
                assert await client.ending() == "fin"
            assert (await server.ask(get("/more"))).body == b"served"
    assert ("application failed" in {line["event"] for line in logs}) == (kind not in {"returns", "only a start"})


async def test_to_head_no_error_has_a_body() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    async with open_server(app) as server, server.connect() as client:
        answered = await client.ask(_HEAD)
        assert answered.status == 500
        assert int(answered.fields[b"content-length"]) > 0
        assert await client.ending() == "fin"


async def test_an_error_with_an_answer_of_its_own_is_told_as_that() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise NotFound("nothing here")

    with structlog.testing.capture_logs() as logs:
        async with open_server(app) as server:
            answered = await server.ask(GET)
    assert (answered.status, answered.problem["detail"]) == (404, "nothing here")
    assert [line["event"] for line in logs if line["log_level"] == "error"] == []


async def test_after_a_bad_answer_another_can_be_given() -> None:
    """An application's own error handler may say what went wrong."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, (b"x-field", b"a\nb"))
        with pytest.raises(BadAnswer):
            await part(send, b"chunked")
        await answer(send, b"sorry", status=500)

    async with open_server(app) as server, server.connect() as client:
        for _ in range(2):
            answered = await client.ask(GET)
            assert (answered.status, answered.body) == (500, b"sorry")
            assert not answered.closes


async def _too_much(send: Send) -> None:
    await start(send, (b"content-length", b"5"))
    await part(send, b"123")
    await part(send, b"456")


async def _too_little(send: Send) -> None:
    await start(send, (b"content-length", b"5"))
    await part(send, b"123")
    await end(send)


async def _fails_in_the_middle(send: Send) -> None:
    await start(send)
    await part(send, b"123")
    raise ValueError


async def _returns_in_the_middle(send: Send) -> None:
    await start(send)
    await part(send, b"123")


async def _bad_trailers(send: Send) -> None:
    await start(send, trailers=True)
    await end(send, b"123")
    await send({"type": "http.response.trailers", "headers": [(b"x-field", b"a\r\nb")]})


async def _no_trailers(send: Send) -> None:
    await start(send, trailers=True)
    await end(send, b"123")


@over_both
@pytest.mark.parametrize(
    "app", [_too_much, _too_little, _fails_in_the_middle, _returns_in_the_middle, _bad_trailers, _no_trailers]
)
async def test_an_answer_that_fails_after_it_began_is_cut(app: Callable[[Send], Awaitable[None]], tls: bool) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await app(send)

    async with open_server(application, tls=tls) as server, server.connect() as client:
        await client.send(get("/", b"TE: trailers", b"Connection: TE") + GET)
        answered = await client.answer()
        assert (answered.status, answered.body) == (200, b"123")
        assert not answered.complete
        assert await client.rest() == b""


async def test_messages_out_of_order_are_the_application_s_mistake() -> None:
    wrong: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def refused(message: Message) -> None:
            with pytest.raises(RuntimeError, match="at this point"):
                await send(message)
            wrong.append(message)

        await refused({"type": "http.response.body", "body": b"no start"})
        await refused({"type": "http.response.trailers"})
        await refused({"type": "http.response.unheard"})
        await start(send)
        await end(send, b"whole")
        await refused({"type": "http.response.start", "status": 200})
        await refused({"type": "http.response.body", "body": b"more"})
        await refused({"type": WHOLE, "status": 200, "headers": [], "body": b"more"})

    async with open_server(app) as server, server.connect() as client:
        for _ in range(2):
            assert (await client.ask(GET)).body == b"whole"
    assert len(wrong) == 12


# -- what ends in the middle -------------------------------------------------------------------------------------------


@over_both
@pytest.mark.parametrize("length", [True, False], ids=["of a length", "in chunks"])
async def test_after_a_write_that_was_cancelled_nothing_else_is_written(length: bool, tls: bool) -> None:
    done: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        fields = [(b"content-length", b"%d" % (MUCH + 9))] if length else []
        await start(send, *fields)
        with trio.move_on_after(0.1) as late:
            await part(send, bytes(MUCH))
        assert late.cancelled_caught
        with pytest.raises(OSError, match="left"):
            await end(send, b"forbidden")
        done.append("cancelled")

    async with open_server(app, tls=tls) as server, server.connect() as client:
        await client.send(GET + get("/more"))
        await trio.sleep(0.15)
        received = await client.rest()
        assert b"forbidden" not in received
        assert received.count(b"HTTP/1.1 ") == 1
        assert len(received) < MUCH
    assert done == ["cancelled"]


@over_both
async def test_the_scope_of_a_peer_ends_its_request_and_its_connection(tls: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        peer = scope["extensions"][PEER]
        await trio.lowlevel.checkpoint()
        peer.scope.cancel()
        await trio.sleep_forever()

    async with open_server(app, tls=tls) as server, server.connect() as client:
        await client.send(GET + get("/more"))
        assert await client.rest() == b""
        await server.all_gone()


async def test_who_is_cancelled_may_still_answer() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"][PEER].scope.cancel()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await answer(send, b"too late", status=504)
            raise

    async with open_server(app) as server, server.connect() as client:
        await client.send(post(b"x") + get("/more"))
        answered = await client.answer("POST")
        assert (answered.status, answered.body, answered.complete) == (504, b"too late", True)
        assert await client.rest() == b""
