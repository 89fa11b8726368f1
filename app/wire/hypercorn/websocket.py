"""Hypercorn's WebSocket, mended (RFC 6455)."""

from __future__ import annotations

import re
import secrets
from typing import Any, cast

import structlog
import trio
import wsproto.connection
import wsproto.events
from hypercorn.protocol.events import Body, Data, Request, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.ws_stream import FrameTooLargeError, Handshake, WSStream
from wsproto.events import CloseConnection
from wsproto.frame_protocol import CloseReason

from app.errors import BadRequest
from app.wire.connection import refusal
from app.wire.hypercorn.applications import ApplicationGroup, Reader

_log = structlog.get_logger()


def _is_handshake(request: Request) -> bool:
    handshake = Handshake(request.headers, request.http_version)
    return handshake.is_valid() and re.fullmatch(rb"[A-Za-z0-9+/]{22}==", handshake.key or b"") is not None


class WebSocket(WSStream):
    """A WebSocket (RFC 6455). What comes before it is accepted waits, with the client.

    What breaks the protocol, or is too large, closes it with the code that says so. It is not compressed: a small
    message would have no bound once it is unpacked.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._accepted = trio.Event()

    async def handle(self, event: StreamEvent) -> None:
        match event:
            case Request() if not _is_handshake(event):
                await self._refuse()
                return
            case Body() | Data() if not self.closed:
                with self._connection.holding():
                    await self._accepted.wait()
            case _:
                pass
        await super().handle(event)

    async def _refuse(self) -> None:
        """(Hypercorn's own answer would leave the connection open, with nobody to serve it.)"""
        error = BadRequest("not a WebSocket's handshake (RFC 6455 4.1)", headers={"sec-websocket-version": "13"})
        request_id = secrets.token_hex(8)
        client = None if self.client is None else self.client[0]
        said = {"status": error.status, "error": error.name, "detail": error.detail}
        _log.info("request refused", **said, client=client, request_id=request_id)
        self.closed = True
        await self.send(Data(stream_id=self.stream_id, data=refusal(error, request_id)))
        await self.send(StreamClosed(stream_id=self.stream_id))

    async def _accept(self, message: Any) -> None:
        self.handshake.extensions = None
        await super()._accept(message)
        self._accepted.set()

    async def _handle_events(self) -> None:
        untyped: Any = self
        for event in self.connection.events():
            match event:
                case wsproto.events.Message():
                    try:
                        untyped.buffer.extend(event)
                    except FrameTooLargeError:
                        await self._end(CloseConnection(CloseReason.MESSAGE_TOO_BIG))
                        return
                    if event.message_finished:
                        message = untyped.buffer.to_message()
                        self.buffer.clear()
                        await untyped.app_put(message)
                case wsproto.events.Ping():
                    await self._send_wsproto_event(event.response())
                case CloseConnection():
                    # While it is open, this is no close of the client's, but what wsproto thinks of its bytes.
                    is_open = self.connection.state is wsproto.connection.ConnectionState.OPEN
                    await self._end(event if is_open else event.response())
                    return
                case _:
                    pass

    async def _end(self, last: CloseConnection) -> None:
        await self._send_wsproto_event(last)
        await self.send(StreamClosed(stream_id=self.stream_id))

    @property
    def _connection(self) -> Reader:
        return cast("ApplicationGroup", self.task_group).connection
