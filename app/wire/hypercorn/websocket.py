"""Hypercorn's WebSocket, mended (RFC 6455)."""

from __future__ import annotations

import re
from typing import Any, cast

import trio
import wsproto.connection
import wsproto.events
from hypercorn.protocol.events import Body, Data, EndBody, Request, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.ws_stream import ASGIWebsocketState, FrameTooLargeError, Handshake, WSStream
from wsproto.events import CloseConnection
from wsproto.frame_protocol import CloseReason

from app.errors import BadRequest, Forbidden, SluiceError
from app.wire.hypercorn.applications import ApplicationGroup, Reader
from app.wire.refusal import no_answer, refuse

# After a ping, until there is a pong, or anything else, from a client that is there.
PONG_SECONDS = 8.0


def _is_handshake(request: Request) -> bool:
    handshake = Handshake(request.headers, request.http_version)
    return handshake.is_valid() and re.fullmatch(rb"[A-Za-z0-9+/]{22}==", handshake.key or b"") is not None


class WebSocket(WSStream):
    """A WebSocket (RFC 6455). What comes before it is accepted waits, with the client.

    What breaks the protocol, or is too large, closes it with the code that says so. It is not compressed: a small
    message would have no bound once it is unpacked. A client that does not answer a ping is gone.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._accepted = trio.Event()
        self._client_close: CloseConnection | None = None
        self._heard = trio.Event()

    @property
    def started(self) -> bool:
        return self.state is not ASGIWebsocketState.HANDSHAKE

    async def handle(self, event: StreamEvent) -> None:
        match event:
            case Request() if not _is_handshake(event):
                await self._refuse()
                return
            case Body() | Data() if not self.closed:
                self._heard.set()
                with self._connection.holding():
                    await self._accepted.wait()
            case StreamClosed() if not self.closed and (close := self._client_close) is not None:
                self.closed = True
                message = {"type": "websocket.disconnect", "code": int(close.code), "reason": close.reason or ""}
                await cast("Any", self).app_put(message)
                return
            case _:
                pass
        await super().handle(event)

    async def _refuse(self) -> None:
        """(Hypercorn's own answer would leave the connection open, with nobody to serve it.)"""
        error = BadRequest("not a WebSocket's handshake (RFC 6455 4.1)", headers={"sec-websocket-version": "13"})
        self.closed = True
        await self.send(Data(stream_id=self.stream_id, data=refuse(error, self.client, unseen=True).as_http1()))
        await self.send(StreamClosed(stream_id=self.stream_id))

    async def app_send(self, message: Any) -> None:
        if message is None:
            await self.end(no_answer())
        elif message["type"] == "websocket.close" and not self.started and not self.closed:
            await self._answer(Forbidden("the route does not take this WebSocket"))
        else:
            await super().app_send(message)

    async def end(self, error: SluiceError) -> None:
        """Its application has ended. error: what its client is told where nothing was sent."""
        if self.closed:
            return
        if not self.started:
            await self._answer(error)
        elif self.state is ASGIWebsocketState.CONNECTED:
            await self._send_wsproto_event(CloseConnection(CloseReason.INTERNAL_ERROR))
        await self.send(StreamClosed(stream_id=self.stream_id))

    async def _answer(self, error: SluiceError) -> None:
        answer = refuse(error, self.client)
        fields = [*answer.fields, (b"content-length", b"%d" % len(answer.body)), (b"connection", b"close")]
        self.state = ASGIWebsocketState.HTTPCLOSED
        await self.send(Response(stream_id=self.stream_id, status_code=answer.status, headers=fields))
        await self.send(Body(stream_id=self.stream_id, data=answer.body))
        await self.send(EndBody(stream_id=self.stream_id))

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
                    if not is_open:
                        self._client_close = event
                    await self._end(event if is_open else event.response())
                    return
                case _:
                    pass

    async def _send_pings(self) -> None:
        interval = self.config.websocket_ping_interval
        while interval is not None and not self.closed:
            await trio.sleep(interval)
            self._heard = trio.Event()
            await self._send_wsproto_event(wsproto.events.Ping())
            with trio.move_on_after(PONG_SECONDS) as waiting:
                await self._heard.wait()
            # While it waits for us, its pong may stand behind what we have not read.
            if waiting.cancelled_caught and not (self.closed or self._connection.held):
                await self._connection.drop("no answer to a ping")

    async def _end(self, last: CloseConnection) -> None:
        await self._send_wsproto_event(last)
        await self.send(StreamClosed(stream_id=self.stream_id))

    @property
    def _connection(self) -> Reader:
        return cast("ApplicationGroup", self.task_group).connection
