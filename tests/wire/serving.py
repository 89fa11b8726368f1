"""A server through the adapter, in this process on a real socket, and clients that see each byte and each end."""

from __future__ import annotations

import json
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, cast

import h11
import hypercorn.protocol as hypercorn_protocol
import hypercorn.protocol.h2 as hypercorn_h2
import hypercorn.protocol.h11 as hypercorn_h11
import hypercorn.trio.run as hypercorn_run
import pytest
import trio
import trio.testing
import trustme
from hypercorn.config import Config

from app.flow.drain import DrainGate
from app.settings import load_settings
from app.wire.asgi import PEER, ZERO_COPY, AsgiApp, Message, Receive, Scope, Send
from app.wire.connection import Connections
from app.wire.drain import Drain
from app.wire.hypercorn import hypercorn_values, serve

type Ending = Literal["fin", "reset"]

SETTINGS = replace(load_settings({}).server, port=0, drain_timeout=20)
# What the adapter puts in the place of Hypercorn's own.
_REPLACED: list[tuple[Any, str]] = [
    (hypercorn_run, "TCPServer"),
    (hypercorn_run, "worker_serve"),
    (hypercorn_protocol, "H2Protocol"),
    (hypercorn_h2, "HTTPStream"),
    (hypercorn_h11, "HTTPStream"),
    (hypercorn_h11, "WSStream"),
]
# A test that takes longer hangs.
_SECONDS = 30

HOST = b"Host: sluice\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
GET_CLOSE = b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
over_both = pytest.mark.parametrize("tls", [False, True], ids=["cleartext", "TLS"])
# More than the socket buffers of both sides hold.
MUCH = 32 * 1024 * 1024


def get(path: str = "/", *fields: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\n%b%b\r\n" % (path.encode(), HOST, b"".join(each + b"\r\n" for each in fields))


def post(body: bytes = b"", *fields: bytes, path: str = "/", length: int | None = None) -> bytes:
    """``length``: what it says, where that is not the length of ``body``."""
    size = len(body) if length is None else length
    head = b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n" % (path.encode(), HOST, size)
    return head + b"".join(each + b"\r\n" for each in fields) + b"\r\n" + body


def post_chunked(*chunks: bytes, path: str = "/", trailers: bytes = b"") -> bytes:
    head = b"POST %b HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n" % (path.encode(), HOST)
    return head + b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + b"0\r\n" + trailers + b"\r\n"


# -- applications ------------------------------------------------------------------------------------------------------


async def start(send: Send, *fields: tuple[bytes, bytes], status: int = 200, **more: Any) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(fields), **more})


async def part(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def end(send: Send, data: bytes = b"") -> None:
    await send({"type": "http.response.body", "body": data})


async def answer(send: Send, data: bytes = b"", *fields: tuple[bytes, bytes], status: int = 200) -> None:
    await start(send, *fields, status=status)
    await end(send, data)


async def send_file(send: Send, path: Path, offset: int, count: int, **more: Any) -> None:
    with path.open("rb") as opened:
        await send({"type": ZERO_COPY, "file": opened, "offset": offset, "count": count, **more})


async def read_body(receive: Receive) -> bytes:
    """All of it. *Errors*: EOFError where the client leaves."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise EOFError
        body += message["body"]
        if not message["more_body"]:
            return bytes(body)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers with method, path and body, once it has read that."""
    try:
        body = await read_body(receive)
    except EOFError:
        return
    await answer(send, f"{scope['method']} {scope['path']} ".encode() + body)


class Leaving:
    """An application that waits to be told that its client has left. ``called``: how often it was; ``at``: when."""

    def __init__(self, wait: Callable[[Receive, Send], Awaitable[object]] | None = None) -> None:
        self.begun = trio.Event()
        self.told = trio.Event()
        self.called = 0
        self.at = 0.0
        self.received: list[str] = []
        self._wait = wait

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"][PEER].when_gone(self._tell)
        self.begun.set()
        if self._wait is not None:
            await self._wait(receive, send)
        await self.told.wait()
        self.received = [(await receive())["type"] for _ in range(2)]

    def _tell(self) -> None:
        self.called += 1
        self.at = trio.current_time()
        self.told.set()


class Waiting:
    """An application that waits until it is cancelled."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.ended = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun.set()
        try:
            await trio.sleep_forever()
        finally:
            self.ended.set()


# -- clients -----------------------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """complete: as its framing says. informational: the statuses before it."""

    status: int
    fields: dict[bytes, bytes]
    body: bytes
    complete: bool
    informational: list[int] = field(default_factory=list[int])
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    http_version: bytes = b"1.1"

    @property
    def problem(self) -> dict[str, Any]:
        assert self.fields[b"content-type"] == b"application/problem+json"
        return json.loads(self.body)

    @property
    def closes(self) -> bool:
        return self.fields.get(b"connection") == b"close"


class Client:
    """One connection. What answers mean is h11's to say."""

    def __init__(self, raw: trio.SocketStream, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        self.raw = raw
        self.stream = stream
        self.buffered = b""
        self._ending: Ending | None = None

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def receive(self, size: int = 1 << 18) -> bytes:
        """What has come; b"" at the end, of which kind soever."""
        if self.buffered:
            data, self.buffered = self.buffered[:size], self.buffered[size:]
            return data
        if self._ending is None:
            try:
                data = bytes(await self.stream.receive_some(size))
            except trio.BrokenResourceError:
                self._ending = "reset"
            else:
                if data:
                    return data
                self._ending = "fin"
        return b""

    async def answer(self, method: str = "GET") -> Answer:
        """The next answer. *Errors*: EOFError where the connection ends before one."""
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        parser.send(h11.Request(method=method, target="/", headers=[("host", "sluice")]))
        if method != "POST":
            parser.send(h11.EndOfMessage())
        body = bytearray()
        informational: list[int] = []
        head: h11.Response | None = None
        while True:
            try:
                event = parser.next_event()
            except h11.RemoteProtocolError as error:
                if self._ending is None:
                    raise
                if head is None:
                    raise EOFError from error
                return _answer(head, body, informational)
            match event:
                case h11.InformationalResponse():
                    informational.append(event.status_code)
                case h11.Response():
                    head = event
                case h11.Data():
                    body += event.data
                case h11.EndOfMessage():
                    assert head is not None
                    self.buffered = parser.trailing_data[0]
                    until_end = not {b"content-length", b"transfer-encoding"} & dict(head.headers).keys()
                    whole = self._ending != "reset" or not until_end
                    return _answer(head, body, informational, complete=whole, trailers=list(event.headers))
                case h11.ConnectionClosed():
                    raise EOFError
                case _:
                    parser.receive_data(await self.receive())

    async def ask(self, request: bytes) -> Answer:
        await self.send(request)
        return await self.answer(request[: request.index(b" ")].decode())

    async def rest(self) -> bytes:
        """All that still comes, to its end."""
        received = bytearray()
        while data := await self.receive():
            received += data
        return bytes(received)

    async def ending(self) -> Ending:
        """How it ends; nothing may come before."""
        assert await self.rest() == b""
        assert self._ending is not None
        return self._ending

    def leave(self, how: Literal["close", "reset", "half-close"]) -> None:
        if how == "reset":
            self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how == "half-close":
            self.raw.socket.shutdown(socket.SHUT_WR)
        else:
            self.raw.socket.close()


async def push(client: Client, sent: list[int]) -> None:
    """Sends for as long as it can; ``sent`` grows with what has left this process."""
    piece = bytes(65_536)
    if isinstance(client.stream, trio.SSLStream):
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while True:
                await client.stream.send_all(piece)
                sent.append(len(piece))
    with suppress(OSError):
        while True:
            sent.append(await client.raw.socket.send(piece))


def _answer(
    head: h11.Response,
    body: bytearray,
    informational: list[int],
    *,
    complete: bool = False,
    trailers: list[tuple[bytes, bytes]] | None = None,
) -> Answer:
    fields = dict(head.headers)
    assert len(fields) == len(list(head.headers)), f"repeated: {head.headers}"
    return Answer(
        head.status_code, fields, bytes(body), complete, informational, trailers or [], bytes(head.http_version)
    )


# -- servers -----------------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """A running one. connections: what its connections share."""

    port: int
    connections: Connections
    gate: DrainGate
    secure: bool

    @asynccontextmanager
    async def connect(self, receive_buffer: int = 32 * 1024) -> AsyncGenerator[Client]:
        """A client; its buffer is small, so that what it does not read stays with the server."""
        raw = await connect(self.port, receive_buffer)
        async with raw:
            stream = raw
            if self.secure:
                stream = trio.SSLStream(raw, _trusting(), server_hostname="127.0.0.1", https_compatible=True)
                await stream.do_handshake()
            yield Client(raw, stream)

    async def ask(self, request: bytes) -> Answer:
        """One request on a connection of its own."""
        async with self.connect() as client:
            return await client.ask(request)

    async def all_gone(self) -> None:
        """Returns once no connection is left."""
        while self.connections.open or self.connections.count:  # noqa: ASYNC110 - the server tells nobody
            await trio.sleep(0.002)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def connect(port: int, receive_buffer: int = 32 * 1024) -> trio.SocketStream:
    """A connection with a small buffer, set before connecting, for the window follows it."""
    raw = trio.socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await raw.connect(("127.0.0.1", port))
    return trio.SocketStream(raw)


@asynccontextmanager
async def open_server(app: AsgiApp, *, tls: bool = False, **settings: Any) -> AsyncGenerator[Server]:
    """``app`` served. It has to end in order once the body is through, which has half a minute for all of it.

    settings: of `ServerSettings`, where they differ from the defaults.
    """
    replaced = [(module, name, getattr(module, name)) for module, name in _REPLACED]
    ours = replace(SETTINGS, **settings)
    config = (_TlsConfig if tls else Config).from_mapping(hypercorn_values(ours))
    sockets = config.create_sockets()
    listening = [*sockets.insecure_sockets, *sockets.secure_sockets]
    for each in listening:
        each.listen(4096)
    gate = DrainGate()
    ended_well: list[bool] = []

    async def run() -> None:
        drain = Drain(gate, 0, ours.drain_timeout)
        ended_well.append(await serve(with_lifespan(app), config, sockets, drain, ours, io_threads=2))

    try:
        with trio.fail_after(_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await trio.testing.wait_all_tasks_blocked()
                connections: Any = getattr(cast("Any", hypercorn_run).TCPServer, "shared", None)
                yield Server(listening[0].getsockname()[1], connections, gate, tls)
                gate.start()
    finally:
        for module, name, stock in replaced:
            setattr(module, name, stock)
        for each in listening:
            each.close()
    assert ended_well == [True]


def with_lifespan(app: AsgiApp) -> AsgiApp:
    return partial(_call, app)


async def _call(app: AsgiApp, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "lifespan":
        await app(scope, receive, send)
        return
    for event in ("startup", "shutdown"):
        assert (await receive())["type"] == f"lifespan.{event}"
        message: Message = {"type": f"lifespan.{event}.complete"}
        await send(message)


class _TlsConfig(Config):
    """Hypercorn's own, with a certificate that no file holds."""

    @property
    def ssl_enabled(self) -> bool:
        return True

    def create_ssl_context(self) -> ssl.SSLContext | None:
        context = super().create_ssl_context()
        assert context is not None
        _authority().issue_cert("127.0.0.1").configure_cert(context)
        return context


@cache
def _authority() -> trustme.CA:
    return trustme.CA()


@cache
def _trusting() -> ssl.SSLContext:
    trusting = ssl.create_default_context()
    _authority().configure_trust(trusting)
    return trusting
