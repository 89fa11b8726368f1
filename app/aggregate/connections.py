"""Connections that are used again, by httpcore's: one call at a time each.

(httpcore's own pool looks at all of its connections several times a call, at each of them for each other one, and a
call that leaves while it waits there costs it a connection.)
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpcore
import trio

# Before most servers close them, who would do it just as the next call comes.
_IDLE_SECONDS = 4.0


class Connections:
    """Of one source, to whatever origins its calls go to.

    Bound: ``most_idle`` that no call uses; when there are more, the one that was used the longest ago is closed.
    """

    def __init__(self, network: httpcore.AsyncNetworkBackend, tls: ssl.SSLContext | None, most_idle: int) -> None:
        self._network = network
        self._tls = tls
        self._most_idle = most_idle
        self._idle: deque[httpcore.AsyncHTTPConnection] = deque()

    @asynccontextmanager
    async def response(self, request: httpcore.Request, *, again: bool) -> AsyncGenerator[httpcore.Response]:
        """The head of an answer, its body still to be read. again: whether ``request`` may be sent twice: an idle
        connection may be closed by the other side just now (RFC 9110 9.2.2, RFC 9112 9.3.1).

        *Cancellation*: closes the connection.
        """
        idle = await self._take(request.url.origin)
        connection = idle or self._make(request.url.origin)
        try:
            try:
                response = await connection.handle_async_request(request)
            except (httpcore.NetworkError, httpcore.RemoteProtocolError):
                if idle is None or not again:
                    raise
                connection = self._make(request.url.origin)
                response = await connection.handle_async_request(request)
            try:
                yield response
            finally:
                with trio.CancelScope(shield=True):  # what is open is closed, which takes no time
                    await response.aclose()
        finally:
            await self._give_back(connection)

    async def close(self) -> None:
        while self._idle:
            await _close(self._idle.popleft())

    def _make(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection:
        return httpcore.AsyncHTTPConnection(
            origin, ssl_context=self._tls, keepalive_expiry=_IDLE_SECONDS, network_backend=self._network
        )

    async def _take(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection | None:
        """One that is idle, the last that was used; those behind it that are of no more use are closed on the way."""
        for place in range(len(self._idle) - 1, -1, -1):
            connection = self._idle[place]
            if connection.can_handle_request(origin):
                del self._idle[place]
                if not connection.has_expired():
                    return connection
                await _close(connection)
                return await self._take(origin)
        return None

    async def _give_back(self, connection: httpcore.AsyncHTTPConnection) -> None:
        if not connection.is_idle() or connection.is_closed() or _has_more(connection):
            await _close(connection)
            return
        self._idle.append(connection)
        while len(self._idle) > self._most_idle or (self._idle and self._idle[0].has_expired()):
            await _close(self._idle.popleft())


def _has_more(connection: httpcore.AsyncHTTPConnection) -> bool:
    """Whether bytes came behind the answer: they would be taken for the next request's (RFC 9112 6.3).

    httpcore keeps them, and does not look; nor does it show them.
    """
    http: Any = getattr(connection, "_connection", None)
    return http is not None and bool(http._h11_state.trailing_data[0])


async def _close(connection: httpcore.AsyncHTTPConnection) -> None:
    with trio.CancelScope(shield=True):  # closing a socket takes no time
        await connection.aclose()
