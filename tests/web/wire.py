"""A client, its connection and its requests in memory: what ASGI applications see of a server."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import trio

from app.flow.drain import DrainGate
from app.settings import load_settings
from app.web.boundary import Boundary
from app.wire.asgi import PEER, Message, Receive, Scope, Send

SERVER_DEADLINE = 60.0
SETTINGS = replace(load_settings({}).server, request_deadline=SERVER_DEADLINE)

type Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


class Wire:
    """One exchange. ``sent`` is what the client got; one that does not read lets the first send wait for ever.

    tells: whether it offers a `Peer`, as our wire does; else only ``receive`` tells that the client has left.
    """

    tells = True
    close_code: int | None = None

    def __init__(self, body: Sequence[bytes] = (b"",), *, reads: bool = True) -> None:
        self.sent: list[Message] = []
        self.started = False
        self.scope: trio.CancelScope | None = None
        self._reads = reads
        self._body = list(body)
        self._left = trio.Event()
        self._calls: list[Callable[[], None]] = []

    async def receive(self) -> Message:
        if self._body and not self._left.is_set():
            body = self._body.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(self._body)}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.started = True
        await trio.lowlevel.checkpoint()
        if not self._reads:
            await trio.sleep_forever()
        self.sent.append(message)

    def leave(self) -> None:
        self._left.set()
        for call in self._calls:
            call()

    def when_gone(self, call: Callable[[], None]) -> None:
        if self._left.is_set():
            call()
        else:
            self._calls.append(call)

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    @property
    def fields(self) -> dict[bytes, bytes]:
        """The answer's header fields; one that is sent twice fails the test."""
        pairs = [(name.lower(), value) for name, value in self.sent[0]["headers"]]
        assert len(dict(pairs)) == len(pairs), f"repeated: {pairs}"
        return dict(pairs)

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def problem(self) -> Any:
        assert self.fields[b"content-type"] == b"application/problem+json"
        assert self.fields[b"content-length"] == str(len(self.body)).encode()
        return json.loads(self.body)

    @property
    def complete(self) -> bool:
        return self.sent != [] and self.sent[-1].get("more_body") is False


def scope(fields: Mapping[str, str | bytes] | None = None, **more: object) -> Scope:
    pairs = (fields or {}).items()
    headers = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in pairs]
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/thing",
        "headers": headers,
        "client": ("192.0.2.1", 4711),
    } | more


async def start(send: Send, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})


async def chunk(send: Send, body: bytes = b"part", *, last: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": not last})


async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
    """An application that answers at once."""
    await start(send)
    await chunk(send, b"hello", last=True)


async def wait(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """An application that never answers."""
    await trio.sleep_forever()


async def begin_and_wait(_scope: Scope, _receive: Receive, send: Send) -> None:
    """An application that never gets to the end of its answer."""
    await start(send)
    await chunk(send)
    await trio.sleep_forever()


def raising(error: BaseException) -> Handler:
    """An application that raises before its first byte."""

    async def application(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise error

    return application


async def ask(
    application: Handler,
    fields: Mapping[str, str | bytes] | None = None,
    *,
    wire: Wire | None = None,
    gate: DrainGate | None = None,
    **more: object,
) -> Wire:
    """One request to ``application`` behind the boundary; returns when that has ended it."""
    wire = wire or Wire()
    boundary = Boundary(application, gate or DrainGate(), SETTINGS)
    extensions = {PEER: wire} if wire.tells else {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(boundary.run)
        with trio.CancelScope() as wire.scope:
            await boundary(scope(fields, **({"extensions": extensions} | more)), wire.receive, wire.send)
        nursery.cancel_scope.cancel()
    return wire
