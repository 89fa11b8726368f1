"""Uploads and time: one that keeps moving may take as long as it likes, one that stalls ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import structlog
import trio
from h2.exceptions import StreamClosedError

from app.flow.drain import DrainGate
from app.web.boundary import Boundary
from tests.wire.http2_client import Http2, connected
from tests.wire.serving import HOST, SETTINGS, Client, Server, echo, open_server

type Log = list[MutableMapping[str, Any]]
type Send = Callable[[bytes], Awaitable[None]]

_PIECE = 1000
_PIECES = 12
every_protocol = pytest.mark.parametrize("protocol", ["of a length", "chunked", "HTTP/2"])


@asynccontextmanager
async def _server(**limits: Any) -> AsyncGenerator[tuple[Server, Log]]:
    boundary = Boundary(echo, DrainGate(), replace(SETTINGS, **limits))
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(boundary.run)
            async with open_server(boundary, **limits) as server:
                yield server, logs
            nursery.cancel_scope.cancel()


class _Upload:
    """One of `_PIECES` pieces, and its answer: status, and how long its body is."""

    def __init__(self, client: Client | Http2, *fields: str) -> None:
        self._client = client
        self._fields = fields
        self._chunked = False
        self._stream = 0

    async def begin(self, *, chunked: bool) -> None:
        self._chunked = chunked
        if isinstance(self._client, Http2):
            named = [(name, value) for name, value in (each.split(": ") for each in self._fields)]
            self._stream = await self._client.ask("/", *named, method="POST", ends=False)
            return
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % (_PIECE * _PIECES)
        lines = b"".join(each.encode() + b"\r\n" for each in self._fields)
        await self._client.send(b"POST / HTTP/1.1\r\n%b%b%b\r\n\r\n" % (HOST, lines, framing))

    async def send(self, *, last: bool = False) -> None:
        data = bytes(_PIECE)
        if isinstance(self._client, Http2):
            await self._client.upload(self._stream, data, ends=last)
        elif self._chunked:
            await self._client.send(b"%x\r\n%b\r\n%b" % (len(data), data, b"0\r\n\r\n" if last else b""))
        else:
            await self._client.send(data)

    async def answer(self) -> tuple[int, int]:
        if isinstance(self._client, Http2):
            head = await self._client.head(self._stream)
            return int(head[":status"]), len(await self._client.body(self._stream))
        answered = await self._client.answer("POST")
        return answered.status, len(answered.body)


@asynccontextmanager
async def _upload(server: Server, protocol: str, *fields: str) -> AsyncGenerator[_Upload]:
    connecting = connected(server) if protocol == "HTTP/2" else server.connect()
    async with connecting as client:
        upload = _Upload(client, *fields)
        await upload.begin(chunked=protocol == "chunked")
        yield upload


@every_protocol
async def test_an_upload_that_keeps_moving_outlives_the_deadline_and_the_stall_limit(protocol: str) -> None:
    limits = {"request_deadline": 0.6, "stall_timeout": 0.6}
    async with _server(**limits) as (server, logs), _upload(server, protocol) as upload:
        for number in range(1, _PIECES + 1):
            await trio.sleep(0.1)
            await upload.send(last=number == _PIECES)
        assert await upload.answer() == (200, len("POST / ") + _PIECE * _PIECES)
    (line,) = logs
    assert line["outcome"] == "ok"
    assert line["ms"] > 1000


@every_protocol
async def test_an_upload_that_stalls_is_ended_long_before_the_deadline(protocol: str) -> None:
    limits = {"request_deadline": 3600, "stall_timeout": 0.3}
    async with _server(**limits) as (server, logs), _upload(server, protocol) as upload:
        await upload.send()
        assert (await upload.answer())[0] == 408
    assert [(line["status"], line["outcome"]) for line in logs if line["event"] == "request"] == [(408, "client_error")]


@every_protocol
async def test_what_a_client_has_asked_for_ends_its_upload_also_while_it_moves(protocol: str) -> None:
    async def go_on(upload: _Upload) -> None:
        with suppress(StreamClosedError):  # the answer has come, and with it the end of the stream
            for _ in range(_PIECES - 1):
                await upload.send()
                await trio.sleep(0.1)

    async with (
        _server(request_deadline=3600) as (server, logs),
        _upload(server, protocol, "sluice-deadline: 0.3") as upload,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(go_on, upload)
        assert (await upload.answer())[0] == 504
        nursery.cancel_scope.cancel()
    assert [line["outcome"] for line in logs if line["event"] == "request"] == ["deadline"]
