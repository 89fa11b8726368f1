"""Answers whose bodies are made while they are sent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NoReturn

import pytest
import trio

from app.errors import DatabaseUnavailable
from app.http.answers import Answer, Fields, ShortRoute, Streamed
from app.web.short_way import ShortWay
from app.wire.asgi import Receive, Scope, Send
from tests.web.wire import Wire, ask

_AWAY = DatabaseUnavailable("away")


class Body:
    """Yields its parts, or raises them where they are errors; remembers when it was opened and closed."""

    def __init__(self, *parts: bytes | Exception) -> None:
        self._parts = parts
        self.opened = self.closed = False

    @asynccontextmanager
    async def chunks(self) -> AsyncGenerator[AsyncIterator[bytes]]:
        self.opened = True
        parts = iter(self._parts)

        class Chunks:
            def __aiter__(self) -> AsyncIterator[bytes]:
                return self

            async def __anext__(self) -> bytes:
                await trio.lowlevel.checkpoint()
                part = next(parts, None)
                if part is None:
                    raise StopAsyncIteration
                if isinstance(part, Exception):
                    raise part
                return part

        try:
            yield Chunks()
        finally:
            self.closed = True


async def _fall_through(_scope: Scope, _receive: Receive, _send: Send) -> NoReturn:
    raise AssertionError("it is served by the short way")


async def _ask(
    body: Body, method: str = "GET", trailers: Callable[[], Fields] | None = None, *, wanted: bool = False
) -> Wire:
    async def handler(_method: str, parameter: str, _fields: Mapping[str, str], query: bytes) -> Answer:
        await trio.lowlevel.checkpoint()
        assert (parameter, query) == ("", b"a=b")
        return Answer(200, [(b"content-type", b"text/plain")], Streamed(body.chunks(), trailers))

    route = ShortRoute("/thing", "", "a thing", frozenset(), handler)
    return await ask(
        ShortWay(_fall_through, [route]),
        method=method,
        path="/thing",
        raw_path=b"/thing",
        query_string=b"a=b",
        extensions={"http.response.trailers": {}} if wanted else {},
    )


async def test_chunks_are_sent_as_they_are_made_and_the_end_when_all_is_well() -> None:
    body = Body(b"one", b"two", b"three")
    wire = await _ask(body)
    assert (wire.status, wire.complete) == (200, True)
    assert b"content-length" not in wire.fields
    assert [message["body"] for message in wire.sent[1:]] == [b"one", b"two", b"three", b""]
    assert body.closed


async def test_a_body_of_nothing_is_complete() -> None:
    wire = await _ask(Body())
    assert (wire.status, wire.body, wire.complete) == (200, b"", True)


async def test_an_error_before_the_first_chunk_is_told_as_one() -> None:
    body = Body(_AWAY, b"late")
    wire = await _ask(body)
    assert (wire.status, wire.problem["type"]) == (503, "urn:sluice:error:database-unavailable")
    assert body.closed


@pytest.mark.parametrize("parts", [(b"one", _AWAY), (b"one", b"two", ValueError("a bug"))])
async def test_an_error_after_it_cuts_the_answer(parts: tuple[bytes | Exception, ...]) -> None:
    body = Body(*parts)
    wire = await _ask(body)
    assert (wire.status, wire.complete) == (200, False)
    assert body.closed


async def test_for_a_head_nothing_is_made() -> None:
    body = Body(b"one")
    wire = await _ask(body, "HEAD")
    assert (wire.status, wire.body, wire.complete) == (200, b"", True)
    assert b"content-length" not in wire.fields
    assert not body.opened


async def test_trailers_follow_where_they_are_wanted_and_tell_what_is_known_at_the_end() -> None:
    body = Body(b"one")

    def trailers() -> Fields:
        return [(b"x-closed", str(body.closed).encode())]

    wire = await _ask(body, trailers=trailers, wanted=True)
    assert wire.sent[0]["trailers"] is True
    assert wire.sent[-1]["type"] == "http.response.trailers"
    assert wire.sent[-1]["headers"] == [(b"x-closed", b"True")]
    wire = await _ask(Body(b"one"), trailers=trailers)
    assert "trailers" not in wire.sent[0]
    assert wire.complete


@pytest.mark.parametrize("path", ["/thing/", "/things", "/thing/x", "/"])
async def test_a_route_without_a_parameter_is_that_path_only(path: str) -> None:
    fell: list[str] = []

    async def fall_through(scope: Scope, _receive: Receive, send: Send) -> None:
        fell.append(scope["path"])
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def handler(*_: object) -> NoReturn:
        raise AssertionError("another route")

    app = ShortWay(fall_through, [ShortRoute("/thing", "", "a thing", frozenset(), handler)])
    await ask(app, path=path, raw_path=path.encode(), query_string=b"")
    assert fell == [path]
