"""A client's connection under Hypercorn: HTTP/1.1 is ours, what speaks HTTP/2 or wants a WebSocket is Hypercorn's."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import hypercorn.utils as hypercorn_utils
import structlog
import trio
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol import ProtocolWrapper
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.typing import ConnectionState

from app.errors import Overloaded
from app.flow.threads import ThreadPool
from app.telemetry.metrics import metrics
from app.wire.connection import Connection, Connections
from app.wire.hypercorn.applications import ApplicationGroup
from app.wire.hypercorn.http2 import Http2
from app.wire.hypercorn.serving import WatchedApp
from app.wire.refusal import refuse
from app.wire.transport import PlainTransport, TlsTransport

_log = structlog.get_logger()
_parse_socket_addr = cast("Any", hypercorn_utils).parse_socket_addr

_LAST_WORDS_SECONDS = 1.0
# After a connection's last words what still comes is read and dropped.
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 16 * 1024 * 1024
# A TLS record holds this much; the stall limit asks for progress once a record.
_RECORD_BYTES = 16 * 1024
_READ_BYTES = 64 * 1024
_LAST_READ_SECONDS = 0.02
# Descriptors that are not clients': files, databases, pipes.
OTHER_DESCRIPTORS = 400


@dataclass(frozen=True, slots=True)
class _Opened:
    """A connection after its handshake. http1: what serves it, unless it was agreed that HTTP/2 is spoken."""

    http1: Connection | None
    alpn: str | None
    client: Any
    server: Any
    secure: bool


class ClientConnection(TCPServer):
    """One connection. Whatever it raises ends it alone. began: when, in Trio's time."""

    shared: ClassVar[Connections]
    threads: ClassVar[ThreadPool]
    _reading: trio.CancelScope | None = None
    _held = False
    _watching: int | None = None
    _lingers = False
    _http1: Connection | None = None
    began = 0.0

    async def run(self) -> None:
        self.began = trio.current_time()
        with self.shared.counted() as wanted:
            try:
                if not wanted:
                    await self._refuse()
                elif (opened := await self._open()) is not None:
                    rest: bytes | None = b""
                    if opened.http1 is not None:
                        self._http1 = opened.http1
                        rest = await opened.http1.run()
                        self.shared.readiness.forget(self._socket.fileno())
                    if rest is not None:
                        await self._run_stock(rest, opened)
            except BaseExceptionGroup as group:
                cancelled, failed = group.split(trio.Cancelled)
                if failed is not None:
                    _log.warning("connection failed", exc_info=failed)
                if cancelled is not None:
                    raise cancelled from None
            except OSError:
                pass  # it was gone before we knew whose it is
            except Exception as error:  # noqa: BLE001 - whatever it is, it ends this connection and no other
                _log.warning("connection failed", exc_info=error)
            finally:
                self._socket.close()

    @property
    def title(self) -> str:
        """Who is at its other end, and what it speaks."""
        address = self._client
        protocol = type(getattr(getattr(self, "protocol", None), "protocol", None)).__name__
        spoken = {"H2Protocol": "HTTP/2", "NoneType": "HTTP/1.1"}.get(protocol, "WebSocket")
        return f"{'unix' if address is None else f'{address[0]}:{address[1]}'} {spoken}"

    @property
    def _client(self) -> Any:
        """Its address, as ASGI has it; None where it has left, or has none."""
        try:
            return _parse_socket_addr(self._socket.family, self._socket.getpeername())
        except OSError:
            return None

    @property
    def seconds_left(self) -> float:
        """Until it is ended, where it speaks HTTP/1.1 and has nothing to do."""
        return float("inf") if self._http1 is None else self._http1.seconds_left

    @property
    def _socket(self) -> trio.socket.SocketType:
        stream: Any = self.stream
        return getattr(stream, "transport_stream", stream).socket

    async def _refuse(self) -> None:
        """There are too many. TLS is not worth a handshake for that, nor a flood a line of the log for each."""
        stream: Any = self.stream
        error = Overloaded("the server has as many connections as it takes", retry_after=1)
        if isinstance(stream, trio.SSLStream) or self.shared.count > self.shared.limit + OTHER_DESCRIPTORS // 2:
            metrics.requests.refused(error)
            return
        os.write(self._socket.fileno(), refuse(error, self._client, unseen=True).as_http1())
        self._socket.shutdown(trio.socket.SHUT_WR)
        with trio.move_on_after(1):  # what it has sent would otherwise reset our answer away
            while await self._socket.recv(_READ_BYTES):
                pass

    async def _open(self) -> _Opened | None:
        """Shakes hands; None where that came to nothing."""
        stream: Any = self.stream
        shared = self.shared
        secure = isinstance(stream, trio.SSLStream)
        alpn = None
        if secure:
            with trio.move_on_after(self.config.ssl_handshake_timeout) as handshake, shared.shaking_hands(handshake):
                try:
                    await stream.do_handshake()
                except trio.BrokenResourceError:
                    return None
            if handshake.cancelled_caught:
                return None
            alpn = stream.selected_alpn_protocol()
        client = _parse_socket_addr(self._socket.family, self._socket.getpeername())
        server = _parse_socket_addr(self._socket.family, self._socket.getsockname())
        if alpn == "h2":
            return _Opened(None, alpn, client, server, secure)
        if secure:
            transport = TlsTransport(cast("Any", stream), shared.readiness, shared.settings.stall_timeout)
        else:
            transport = PlainTransport(stream, shared.readiness, self.threads, shared.settings.stall_timeout)
        base = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "scheme": "https" if secure else "http",
            "root_path": self.config.root_path,
            "client": client,
            "server": server,
            "state": self.state,
        }
        mark = None if self.context.max_requests is None else self._mark_request
        http1 = Connection(cast("WatchedApp", self.app).asgi, base, transport, shared, mark)
        return _Opened(http1, alpn, client, server, secure)

    def _mark_request(self) -> None:
        self.context.requests += 1
        if self.context.max_requests is not None and self.context.requests > self.context.max_requests:
            cast("Any", self.context.terminate)._event.set()

    async def _run_stock(self, came: bytes, opened: _Opened) -> None:
        """Hypercorn's own protocols, on what ``came`` already and what follows."""
        scope = trio.CancelScope()
        alpn = "h2" if came.startswith(b"PRI ") else opened.alpn
        self.shared.others[scope] = "http/2" if alpn == "h2" else "websocket"
        try:
            with scope:
                await self._run_protocol(came, alpn, opened)
        finally:
            del self.shared.others[scope]

    async def _run_protocol(self, came: bytes, alpn: str | None, opened: _Opened) -> None:
        try:
            self._task_group = group = ApplicationGroup(self)
            async with group:
                self.protocol = ProtocolWrapper(
                    self.app,
                    self.config,
                    self.context,
                    group,
                    ConnectionState(self.state),
                    opened.secure,
                    opened.client,
                    opened.server,
                    self.protocol_send,
                    alpn,
                )
                async with trio.open_nursery() as group.applications:
                    await self.protocol.initiate()
                    await cast("Any", self.idle_task).restart(group, self._idle_timeout)
                    await self._read(came)
                group.end()
        finally:
            await self._close()

    async def _read(self, came: bytes) -> None:
        """Reads until the peer leaves, which ends it also while what was read before still waits to be handled."""
        self._watching = descriptor = self._socket.fileno()
        if descriptor < 0:  # the drain has closed it
            return
        watched = self.shared.readiness.watch(descriptor, reads=False)
        try:
            with trio.CancelScope() as reading:
                self._reading = reading
                watched.on_gone = partial(self._stop_soon, reading)
                data = came or await self._read_some()
                while data:
                    await self.protocol.handle(RawData(data))
                    data = await self._read_some()
            await self.protocol.handle(Closed())
            if self._lingers:
                await self._linger()
        finally:
            self._unwatch()

    async def _linger(self) -> None:
        """Reads and drops what still comes, so that our last words are not lost by a reset (RFC 9112 9.6)."""
        with suppress(OSError):
            self._socket.shutdown(trio.socket.SHUT_WR)
        left = _LINGER_BYTES
        with trio.move_on_after(_LINGER_SECONDS):
            while left > 0 and (data := await self._read_some()):
                left -= len(data)

    def _unwatch(self) -> None:
        """Before the socket is closed: its number is another's afterwards."""
        descriptor, self._watching = self._watching, None
        if descriptor is not None:
            self.shared.readiness.forget(descriptor)

    async def _close(self) -> None:
        self._unwatch()
        await super()._close()

    async def _initiate_server_close(self) -> None:
        protocol = self.protocol.protocol
        if isinstance(protocol, Http2):
            with trio.move_on_after(_LAST_WORDS_SECONDS):
                await protocol.say_goodbye()
        self._unwatch()
        await super()._initiate_server_close()

    async def _close_forcefully(self) -> None:
        self._unwatch()
        await trio.aclose_forcefully(self.stream)

    @contextmanager
    def holding(self) -> Generator[None]:
        """For as long as the reader waits for an application."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    @property
    def held(self) -> bool:
        return self._held

    async def drop(self, reason: str) -> None:
        """Its client is taken for gone."""
        _log.info("connection dropped", reason=reason)
        await self._close_forcefully()
        await self.protocol.handle(Closed())

    def _stop_soon(self, reading: trio.CancelScope) -> None:
        # What came before the end is there to be read: a request that was sent whole is known, and logged.
        reading.deadline = trio.current_time() + (0 if self._held else _LAST_READ_SECONDS)

    async def _read_some(self) -> bytes:
        try:
            return bytes(await self.stream.receive_some(_READ_BYTES))
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return b""

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Closed) and self._reading is not None:
            # With a further request in hand, Hypercorn's reader would wait for a turn that never comes.
            self._lingers = True
            self._reading.cancel()
            await self.protocol.handle(event)
            return
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        try:
            async with self.send_lock:
                await self._write(memoryview(event.data))
        except trio.Cancelled:
            # Part of it may be out: what would follow on this connection could be taken for the rest.
            await self._close_forcefully()
            raise
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await self.protocol.handle(Closed())
        except trio.TooSlowError:
            _log.info("connection stalled", seconds=self.shared.settings.stall_timeout)
            await self._close_forcefully()
            await self.protocol.handle(Closed())

    async def _write(self, rest: memoryview) -> None:
        """Writes all of ``rest``; TooSlowError where none of it moves for the stall limit."""
        while rest:
            with trio.fail_after(self.shared.settings.stall_timeout):
                rest = rest[await self._write_some(rest) :]

    async def _write_some(self, data: memoryview) -> int:
        stream: Any = self.stream
        if isinstance(stream, trio.SSLStream):
            record = data[:_RECORD_BYTES]
            await stream.send_all(record)
            return len(record)
        try:
            return cast("int", await stream.socket.send(data))
        except OSError as error:
            raise trio.BrokenResourceError from error
