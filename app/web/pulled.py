"""What a client sends, as Quart's routes read it: pulled off the connection as it is asked for, never queued.

(Quart-Trio puts it all into queues without bound, from a task that reads as fast as the client sends.)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from functools import lru_cache
from typing import Any, cast

import trio
from quart_trio.wrappers import TrioRequest, TrioWebsocket

from app.errors import BodyTooLarge
from app.wire.asgi import Receive
from app.wire.exchange import Disconnected


class PulledBody:
    """A request's body: what nobody asks for stays with the client.

    Iterated, it yields what has come, chunk by chunk, up to the server's limit. Awaited, it is the whole, which may
    have ``most`` bytes. It can be had once.

    *Errors*: BodyTooLarge, RequestTimeout, BadRequest (framing), Disconnected. *Cancellation*: harmless.
    """

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        self._whole: bytes | None = None
        self._ended = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._ended:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                # Some servers do not tell of it in any other way, and half a body must not look like a whole one.
                raise Disconnected("the client left before the end of its body")
            self._ended = not message.get("more_body", False)
            if message.get("body"):
                return message["body"]
        raise StopAsyncIteration

    def __await__(self) -> Generator[Any, None, bytes]:
        return self._read().__await__()

    def clear(self) -> None:
        self._whole = b""

    async def _read(self) -> bytes:
        if self._whole is None:
            read = bytearray()
            async for chunk in self:
                read += chunk
                if len(read) > self._most:
                    raise BodyTooLarge(f"the body is larger than the {self._most} bytes that are read whole here")
            self._whole = bytes(read)
        return self._whole


def length_of(scope: Any) -> int | None:
    """Of the body, in bytes, where it was announced."""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), None)


class PulledMessages:
    """A WebSocket's messages, one at a time. *Errors*: EOFError once the client has left."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive

    async def get(self) -> bytes | str:
        message = await self._receive()
        if message["type"] == "websocket.connect":
            message = await self._receive()
        if message["type"] == "websocket.disconnect":
            raise EOFError("the client has left")
        return cast("bytes | str", message["text"] if message.get("bytes") is None else message["bytes"])


class _LateLock:
    """A lock that is made for the first who wants it: hardly any request parses a form."""

    _lock: trio.Lock | None = None

    async def __aenter__(self) -> None:
        if self._lock is None:
            self._lock = trio.Lock()
        await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        cast("trio.Lock", self._lock).release()


class PulledRequest(TrioRequest):
    """Its body is put in by the connection."""

    lock_class = cast("Any", _LateLock)

    @property
    def content_length(self) -> int | None:
        return length_of(self.scope)

    @property
    def blueprints(self) -> list[str]:
        return _blueprints_of(self.endpoint)

    body_class = cast("Any", staticmethod(lambda *_: None))  # pyright: ignore[reportUnknownLambdaType]


@lru_cache(maxsize=1024)
def _blueprints_of(endpoint: str | None) -> list[str]:
    """The names of the endpoint's blueprint and of those around it, which Quart works out three times a request."""
    names = (endpoint or "").split(".")[:-1]
    return [".".join(names[:count]) for count in range(len(names), 0, -1)]


class PulledWebsocket(TrioWebsocket):
    """Its messages are put in by the connection."""

    buffer_class = cast("Any", staticmethod(lambda *_: None))  # pyright: ignore[reportUnknownLambdaType]
