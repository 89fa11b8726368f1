"""A client that speaks HTTP/2, and applications that it asks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest
import trio

from app.flow.drain import DrainGate
from app.web.boundary import Boundary
from app.wire.asgi import AsgiApp, Receive, Scope, Send
from tests.wire.serving import SETTINGS, Client, Server, answer

WINDOW = 65_535
LARGEST = 2**31 - 1
CODES = h2.errors.ErrorCodes


class Http2:
    """A client; it reads only while it waits for something, and gives credit only where it is told to.

    It sends whatever it is told to, also what is no request.
    """

    def __init__(self, client: Client, window: int = WINDOW) -> None:
        self.client = client
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding="utf-8",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.h2 = h2.connection.H2Connection(config)
        if window != WINDOW:
            initial = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
            self.h2.local_settings = h2.settings.Settings(client=True, initial_values=initial)
        self.events: list[h2.events.Event] = []
        self._turn = trio.Lock()

    async def open(self) -> None:
        self.h2.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        async with self._turn:
            await self.client.send(self.h2.data_to_send())

    async def ask(self, path: str, *fields: tuple[str, str], method: str = "GET", ends: bool = True) -> int:
        """The stream's number."""
        head = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "sluice"), *fields]
        return await self.ask_with(head, ends=ends)

    async def ask_with(self, head: Any, *, ends: bool = True) -> int:
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, head, end_stream=ends)
        await self.flush()
        return stream

    async def upload(self, stream: int, data: bytes, *, ends: bool = False, padding: int | None = None) -> None:
        """As much at a time as there is credit for."""
        rest = memoryview(data)
        while rest:
            overhead = 0 if padding is None else padding + 1
            size = min(self.window(stream) - overhead, self.h2.max_outbound_frame_size - overhead, len(rest))
            if size <= 0:
                await self.read()
                continue
            self.h2.send_data(stream, bytes(rest[:size]), pad_length=padding)
            rest = rest[size:]
            await self.flush()
        if ends:
            self.h2.end_stream(stream)
            await self.flush()

    def window(self, stream: int) -> int:
        return self.h2.local_flow_control_window(stream)

    async def read(self) -> None:
        data = await self.client.receive()
        if not data:
            raise EOFError
        self.events += self.h2.receive_data(data)
        await self.flush()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await self.read()

    def of[T: h2.events.Event](self, kind: type[T], stream: int | None = None) -> list[T]:
        found = [event for event in self.events if isinstance(event, kind)]
        return [event for event in found if stream is None or getattr(event, "stream_id", None) == stream]

    async def head(self, stream: int) -> dict[str, str]:
        await self.until(lambda: self.of(h2.events.ResponseReceived, stream))
        headers: Any = self.of(h2.events.ResponseReceived, stream)[0].headers
        return dict(headers)

    async def body(self, stream: int) -> bytes:
        """Of a stream that ends well."""
        await self.until(lambda: self.of(h2.events.StreamEnded, stream))
        return b"".join(event.data or b"" for event in self.of(h2.events.DataReceived, stream))

    async def reset(self, stream: int) -> int:
        """The code with which the server resets it."""
        await self.until(lambda: self.of(h2.events.StreamReset, stream))
        return int(self.of(h2.events.StreamReset, stream)[0].error_code)

    async def ping(self) -> None:
        before = len(self.of(h2.events.PingAckReceived))
        self.h2.ping(bytes(8))
        await self.flush()
        await self.until(lambda: len(self.of(h2.events.PingAckReceived)) > before)

    async def goodbye(self) -> int:
        """The code of the server's GOAWAY."""
        with pytest.raises(EOFError):
            while True:
                await self.read()
        code = self.of(h2.events.ConnectionTerminated)[0].error_code
        assert code is not None
        return int(code)


@asynccontextmanager
async def connected(server: Server, window: int = WINDOW) -> AsyncGenerator[Http2]:
    async with server.connect() as client:
        http2 = Http2(client, window)
        await http2.open()
        yield http2


def bounded(app: AsgiApp, gate: DrainGate | None = None) -> AsgiApp:
    return Boundary(app, gate or DrainGate(), SETTINGS)


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"hello")
