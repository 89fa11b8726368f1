"""What is no answer, or no more than a part of one: no client takes it for more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import structlog
import trio

from app.errors import NotFound
from app.flow.drain import DrainGate
from app.telemetry.logs import _identify
from app.web.boundary import Boundary
from app.wire.asgi import PEER, WHOLE, Message, Receive, Scope, Send
from app.wire.response import BadAnswer
from tests.wire.bad_answers import CUT_ANSWERS, NO_ANSWERS
from tests.wire.serving import (
    GET,
    MUCH,
    SETTINGS,
    answer,
    end,
    get,
    open_server,
    over_both,
    part,
    post,
    read_body,
    start,
)

_HEAD = b"HEAD" + GET[3:]


# -- what is no answer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NO_ANSWERS)
async def test_what_cannot_be_sent_is_told_as_500(kind: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await NO_ANSWERS[kind](send)
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


@pytest.mark.parametrize("kind", NO_ANSWERS)
async def test_behind_the_boundary_it_has_the_request_id_of_its_line_in_the_log(kind: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await NO_ANSWERS[kind](send)
        else:
            await answer(send, b"served")

    with structlog.testing.capture_logs(processors=[_identify]) as logs:
        async with open_server(Boundary(app, DrainGate(), SETTINGS)) as server, server.connect() as client:
            answered = await client.ask(GET)
            assert (answered.status, answered.problem["error"]) == (500, "Internal server error")
            assert answered.problem["request_id"].encode() == answered.fields[b"x-request-id"]
            assert answered.fields.keys().isdisjoint({b"x-field", b"x-injected"})
            assert (await client.ask(get("/more"))).body == b"served"
    (line, *_) = [line for line in logs if line["event"] == "request"]
    said = (line["status"], line["outcome"], line["bytes"], line["request_id"])
    assert said == (500, "error", len(answered.body), answered.problem["request_id"])
    assert "request refused" not in {line["event"] for line in logs}


async def test_to_head_no_error_has_a_body() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    async with open_server(app) as server, server.connect() as client:
        answered = await client.ask(_HEAD)
        assert answered.status == 500
        assert int(answered.fields[b"content-length"]) > 0
        assert await client.ending() == "fin"


@pytest.mark.parametrize("groups", [0, 1, 2])
async def test_an_error_with_an_answer_of_its_own_is_told_as_that(groups: int) -> None:
    """Also where the application's nursery has wrapped it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raised: list[Exception] = [NotFound("nothing here")]
        for _ in range(groups):
            raised = [ExceptionGroup("one", raised)]
        raise raised[0]

    with structlog.testing.capture_logs() as logs:
        async with open_server(app) as server:
            answered = await server.ask(GET)
    assert (answered.status, answered.problem["detail"]) == (404, "nothing here")
    assert [line["event"] for line in logs if line["log_level"] == "error"] == []


async def test_several_errors_at_once_are_told_as_500_and_none_is_lost() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ExceptionGroup("two", [NotFound("nothing here"), ValueError("a bug")])

    with structlog.testing.capture_logs() as logs:
        async with open_server(app) as server:
            assert (await server.ask(GET)).status == 500
    (line,) = [line for line in logs if line["event"] == "application failed"]
    assert isinstance(line["exc_info"], ExceptionGroup)


async def test_a_malformed_body_is_told_as_400_also_from_a_nursery() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_body, receive)

    async with open_server(app) as server, server.connect() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: sluice\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n")
        assert (await client.answer("POST")).status == 400


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


@over_both
@pytest.mark.parametrize("app", CUT_ANSWERS)
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
