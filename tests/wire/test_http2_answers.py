"""Bad answers over HTTP/2: 500 before the head, a reset after it, and no other stream is any the worse."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import h2.events
import pytest
import structlog

from app.errors import BadRequest, NotFound
from app.telemetry.logs import _identify
from app.wire.asgi import Receive, Scope, Send
from app.wire.response import BadAnswer
from tests.wire.bad_answers import CUT_ANSWERS, NO_ANSWERS
from tests.wire.http2_client import CODES, Http2, bounded, connected
from tests.wire.serving import answer, open_server, part, start

by_both = pytest.mark.parametrize("with_boundary", [False, True], ids=["raw", "boundary"])


def _application(bad: Callable[[Send], Awaitable[None]]) -> Any:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/bad":
            await bad(send)
            return
        while (await receive())["more_body"]:
            pass
        await answer(send, b"served")

    return application


async def _problem(client: Http2, stream: int) -> dict[str, Any]:
    head, body = await client.head(stream), await client.body(stream)
    assert head["content-type"] == "application/problem+json"
    assert int(head["content-length"]) == len(body)
    document = json.loads(body)
    assert head[":status"] == str(document["status"])
    assert head["x-request-id"] == document["request_id"]
    assert head.keys().isdisjoint({"x-field", "x-injected"})
    assert b"Injected" not in body
    assert b"business" not in body
    return document


@by_both
@pytest.mark.parametrize("kind", NO_ANSWERS)
async def test_what_cannot_be_sent_is_told_as_500(kind: str, with_boundary: bool) -> None:
    app = _application(NO_ANSWERS[kind])
    with structlog.testing.capture_logs(processors=[_identify]) as logs:
        async with open_server(bounded(app) if with_boundary else app) as server, connected(server) as client:
            other = await client.ask("/other", method="POST", ends=False)
            document = await _problem(client, await client.ask("/bad"))
            assert (document["status"], document["error"]) == (500, "Internal server error")
            await client.upload(other, b"x", ends=True)
            assert await client.body(other) == b"served"
    (line,) = [line for line in logs if line.get("request_id") == document["request_id"] and "status" in line]
    assert (line["event"], line["status"]) == ("request" if with_boundary else "request refused", 500)
    assert line.get("outcome", "error") == "error"


@by_both
@pytest.mark.parametrize("bad", CUT_ANSWERS)
async def test_an_answer_that_fails_after_it_began_is_reset(
    bad: Callable[[Send], Awaitable[None]], with_boundary: bool
) -> None:
    app = _application(bad)
    with structlog.testing.capture_logs():
        async with open_server(bounded(app) if with_boundary else app) as server, connected(server) as client:
            other = await client.ask("/other", method="POST", ends=False)
            stream = await client.ask("/bad", ("te", "trailers"))
            assert await client.reset(stream) == CODES.INTERNAL_ERROR
            assert not client.of(h2.events.StreamEnded, stream)
            assert not client.of(h2.events.TrailersReceived, stream)
            await client.upload(other, b"x", ends=True)
            assert await client.body(other) == b"served"


async def test_to_head_no_error_has_a_body() -> None:
    async with open_server(_application(NO_ANSWERS["returns"])) as server, connected(server) as client:
        stream = await client.ask("/bad", method="HEAD")
        head = await client.head(stream)
        assert (head[":status"], await client.body(stream)) == ("500", b"")
        assert int(head["content-length"]) > 0


async def test_a_head_without_a_body_may_announce_one() -> None:
    async def app(send: Send) -> None:
        await answer(send, b"", (b"content-length", b"5"))

    async with open_server(_application(app)) as server, connected(server) as client:
        stream = await client.ask("/bad", method="HEAD")
        assert (await client.head(stream))["content-length"] == "5"
        assert await client.body(stream) == b""


@pytest.mark.parametrize("error", [NotFound("nothing here"), BadRequest("not like that")])
@pytest.mark.parametrize("groups", [0, 1, 2])
async def test_an_error_with_an_answer_of_its_own_is_told_as_that(error: Exception, groups: int) -> None:
    raised: Exception = error
    for _ in range(groups):
        raised = ExceptionGroup("one", [raised])

    async def app(send: Send) -> None:
        raise raised

    with structlog.testing.capture_logs() as logs:
        async with open_server(_application(app)) as server, connected(server) as client:
            document = await _problem(client, await client.ask("/bad"))
    assert document["detail"] == str(error)
    assert [line["event"] for line in logs] == ["request refused"]


async def test_after_a_bad_answer_another_can_be_given() -> None:
    async def app(send: Send) -> None:
        await start(send, (b"x-field", b"a\nb"))
        with pytest.raises(BadAnswer):
            await part(send, b"never sent")
        await answer(send, b"sorry", status=500)

    async with open_server(_application(app)) as server, connected(server) as client:
        stream = await client.ask("/bad")
        assert (await client.head(stream))[":status"] == "500"
        assert await client.body(stream) == b"sorry"


async def test_fields_that_are_http_1_1_s_own_are_left_out() -> None:
    async def app(send: Send) -> None:
        fields = [(b"Connection", b"close"), (b"transfer-encoding", b"chunked"), (b"te", b"gzip"), (b"X-Field", b" 1 ")]
        await answer(send, b"body", *fields)

    async with open_server(_application(app)) as server, connected(server) as client:
        stream = await client.ask("/bad")
        head = await client.head(stream)
        assert head["x-field"] == "1"
        assert head.keys().isdisjoint({"connection", "transfer-encoding", "te"})
        assert await client.body(stream) == b"body"
