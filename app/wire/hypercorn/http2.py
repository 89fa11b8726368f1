"""Hypercorn's HTTP/2, mended (RFC 9113)."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import priority
import structlog
import trio
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Body, EndBody, InformationalResponse, Response, StreamClosed, Trailers
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, BUFFER_LOW_WATER, BufferCompleteError, H2Protocol, StreamBuffer

from app.wire.hypercorn.http2_requests import Http2Connection
from app.wire.hypercorn.http_stream import HttpStream

_log = structlog.get_logger()

# How much of what was read is handled before the others' turn comes: of the smallest frames it holds hundreds.
_TURN_BYTES = 4 * 1024
_FRAME_HEAD_BYTES = 9


class _Buffer(StreamBuffer):
    """What waits of one stream's answer until its client gives credit, and its turn comes.

    Bound: `BUFFER_HIGH_WATER` and one message; whoever sends waits past it. (Hypercorn's own lets a sender go on
    whenever little leaves, also where that is because nothing may.)
    """

    async def push(self, data: bytes) -> None:
        if self._complete:
            raise BufferCompleteError
        self.buffer += data
        await self._is_empty.clear()
        while len(self.buffer) >= BUFFER_HIGH_WATER:
            await self._paused.clear()
            await self._paused.wait()

    async def pop(self, max_length: int) -> bytes:
        data = bytes(memoryview(self.buffer)[:max_length])
        del self.buffer[: len(data)]
        if len(self.buffer) < BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data


class Http2(H2Protocol):
    """HTTP/2 (RFC 9113), where a slow stream holds up no other.

    A body's credit (flow control, 5.2) is its stream's own, and comes back as the application takes it. Only the
    connection's reader and its sending task write; applications leave what they send to the latter, so that one that is
    cancelled takes no other with it. A stream is reset (8.1) rather than left open: one whose answer the application
    left unfinished, one whose client gives no credit for ``stall_timeout`` seconds, and one whose body nobody wants.
    A head that is not complete after ``header_timeout`` seconds ends the connection: nothing else may come before its
    rest does (4.3).

    WebSockets are not offered over it (RFC 8441): they share the one reader. Clients use HTTP/1.1 for them.
    """

    stall_timeout: float
    header_timeout: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        codes = h2.settings.SettingCodes
        self.connection: Http2Connection = Http2Connection(config=self.connection.config)
        self.connection.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                codes.MAX_CONCURRENT_STREAMS: self.config.h2_max_concurrent_streams,
                codes.MAX_HEADER_LIST_SIZE: self.config.h2_max_header_list_size,
            },
        )
        self._uploading: set[int] = set()
        self._head: int | None = None
        self._head_complete = trio.Event()

    async def send_task(self) -> None:
        while not self.closed:
            await self._flush()
            try:
                stream_id = next(self.priority)
            except priority.priority.DeadlockError:
                await self.has_data.wait()
                await self.has_data.clear()
            else:
                await self._send_data(stream_id)

    async def stream_send(self, event: StreamEvent) -> None:
        match event:
            case Response() | InformationalResponse():
                fields = [(b":status", b"%d" % event.status_code), *event.headers, *self.config.response_headers("h2")]
                await self._send_fields(event.stream_id, fields)
            case Body() | EndBody() if (buffer := self.stream_buffers.get(event.stream_id)) is not None:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._reset_when_stalled, event.stream_id, buffer)
                    await super().stream_send(event)
                    nursery.cancel_scope.cancel()
            case Trailers() if (buffer := self.stream_buffers.get(event.stream_id)) is not None:
                await buffer.drain()
                await self._send_fields(event.stream_id, event.headers, end_stream=True)
                self._uploading.discard(event.stream_id)
            case StreamClosed():
                buffer = self.stream_buffers.get(event.stream_id)
                if buffer is not None and not buffer._complete:
                    await self._reset(event.stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
                await super().stream_send(event)
            case _:
                await super().stream_send(event)

    async def handle(self, event: Event) -> None:
        if not isinstance(event, RawData):
            await super().handle(event)
            self._head_complete.set()
            return
        rest = event.data
        while rest:
            if rest is not event.data:
                await trio.lowlevel.checkpoint()
            size = max(_TURN_BYTES, self._missing)
            await super().handle(RawData(rest[:size]))
            rest = rest[size:]
            if not self.closed and self._frame_is_too_long:
                await self._end(h2.errors.ErrorCodes.FRAME_SIZE_ERROR)
            if self.closed:
                return
        self._watch_head()

    @property
    def _frame_is_too_long(self) -> bool:
        """Whether more is announced than a frame may have (4.2). h2 would look only once all of it, up to 16 MiB, is
        there."""
        return self._announced > self.connection.max_inbound_frame_size

    @property
    def _announced(self) -> int:
        """The size of the frame that has begun."""
        return int.from_bytes(bytes(cast("Any", self.connection.incoming_buffer)._data[:3]))

    @property
    def _missing(self) -> int:
        """How much of the frame that has begun has not come: a large one costs no more turns than its parts."""
        return self._announced + _FRAME_HEAD_BYTES - len(cast("Any", self.connection.incoming_buffer)._data)

    def _watch_head(self) -> None:
        """Gives what has come of a head ``header_timeout`` seconds until the rest of it is there."""
        head = self.connection.unfinished_head
        if head == self._head:
            return
        self._head = head
        self._head_complete.set()
        if head is not None:
            self._head_complete = trio.Event()
            cast("Any", self.task_group).spawn(self._end_without_head, self._head_complete)

    async def _end_without_head(self, complete: trio.Event) -> None:
        with trio.move_on_after(self.header_timeout):
            await complete.wait()
        if not complete.is_set():
            _log.info("head not complete", seconds=self.header_timeout)
            await self._end(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)

    async def _end(self, code: h2.errors.ErrorCodes) -> None:
        await self.say_goodbye(code)
        await self.send(Closed())

    async def say_goodbye(self, code: h2.errors.ErrorCodes = h2.errors.ErrorCodes.NO_ERROR) -> None:
        """GOAWAY (6.8)."""
        with suppress(h2.exceptions.ProtocolError):
            self.connection.close_connection(code)
            await self._flush()

    def has_sent_all(self, stream: HttpStream) -> bool:
        """Whether its client can have the whole answer, with the end that says so or without."""
        buffer = self.stream_buffers.get(stream.stream_id)
        return buffer is None or buffer.complete or (stream.whole and not buffer.buffer)

    async def give_credit(self, stream_id: int, size: int) -> None:
        """The application of that stream has taken ``size`` bytes of its body."""
        with suppress(h2.exceptions.ProtocolError):  # it is closed
            self.connection.increment_flow_control_window(size, stream_id)
            await self.has_data.set()

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            match event:
                case h2.events.RequestReceived() | h2.events.StreamEnded() if await self._refused(event.stream_id):
                    pass
                case h2.events.RequestReceived() if self.context.terminated.is_set():
                    await self._reset(event.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)  # another may take it
                case h2.events.DataReceived():
                    await self._take(event)
                case h2.events.StreamEnded():
                    self._uploading.discard(event.stream_id)
                    await super()._handle_events([event])
                case _:
                    await super()._handle_events([event])
        await self._flush()

    async def _take(self, event: h2.events.DataReceived) -> None:
        size, data = event.flow_controlled_length, event.data or b""
        if size:
            self.connection.increment_flow_control_window(size)
        if await self._refused(event.stream_id):
            return
        stream = self.streams.get(event.stream_id)
        if stream is None:  # the answer is given; what still comes is dropped
            return
        if padding := size - len(data):
            await self.give_credit(event.stream_id, padding)
        if data:
            await stream.handle(Body(stream_id=event.stream_id, data=data))

    async def _refused(self, stream_id: int) -> bool:
        """Whether what came of its request is malformed; then it has been ended."""
        fault = self.connection.take_fault(stream_id)
        if fault is None:
            return False
        _log.info("stream refused", detail=fault, client=self.client[0] if self.client else None)
        await self._reset(stream_id, h2.errors.ErrorCodes.PROTOCOL_ERROR)
        await self._close_stream(stream_id)
        await self._window_updated(stream_id)  # which lets the sending task see that it is closed
        return True

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        given = dict(request.headers)
        if given[b":method"].upper() == b"CONNECT":
            await self._reset(request.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
            return
        if request.stream_ended is None:
            self._uploading.add(request.stream_id)
        await super()._create_stream(request)
        if request.stream_id in self.stream_buffers:  # the application has not begun
            self.stream_buffers[request.stream_id] = _Buffer(self.context.event_class)

    async def _send_data(self, stream_id: int) -> None:
        await super()._send_data(stream_id)
        if stream_id not in self.stream_buffers and stream_id in self._uploading:
            await self._reset(stream_id, h2.errors.ErrorCodes.NO_ERROR)

    async def _send_fields(self, stream_id: int, fields: Any, *, end_stream: bool = False) -> None:
        with suppress(h2.exceptions.ProtocolError, KeyError):  # the stream or the connection has closed meanwhile
            self.connection.send_headers(stream_id, fields, end_stream=end_stream)
            await self.has_data.set()

    async def _reset_when_stalled(self, stream_id: int, buffer: StreamBuffer) -> None:
        left = -1
        while left != len(buffer.buffer):
            left = len(buffer.buffer)
            await trio.sleep(self.stall_timeout)
        _log.info("stream stalled", seconds=self.stall_timeout)
        await self._reset(stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
        await buffer.close()  # which wakes the writer
        await self._close_stream(stream_id)  # which tells the application

    async def _reset(self, stream_id: int, code: h2.errors.ErrorCodes) -> None:
        self._uploading.discard(stream_id)
        with suppress(h2.exceptions.ProtocolError):  # the client has reset it already
            self.connection.reset_stream(stream_id, code)
            await self.has_data.set()
