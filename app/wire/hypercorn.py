"""The adapter to Hypercorn, and the only file that knows its internals (0.18).

Hypercorn keeps configuration, sockets, worker processes, reload, lifespan, TLS set-up, HTTP/2 and WebSocket. What is
put in its place here is looked up by `hypercorn.trio.run` when it serves, after it has imported the application:

- `worker_serve`, around which the drain runs;
- `TCPServer`: cleartext or TLS, it serves HTTP/1.1 by `app.wire.connection`. What speaks HTTP/2, or wants a WebSocket,
  goes to Hypercorn's protocols, whose reads are bounded, whose writes can be cancelled and have a stall limit, which
  see from the socket that the peer has left, and whose errors end one connection only.
"""

from __future__ import annotations

import inspect
import logging
import multiprocessing
import os
import re
import resource
import secrets
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, ClassVar, cast

import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import hypercorn.protocol as hypercorn_protocol
import hypercorn.protocol.h11 as hypercorn_h11
import hypercorn.trio.run as hypercorn_run
import hypercorn.trio.task_group as hypercorn_task_group
import hypercorn.utils as hypercorn_utils
import priority
import structlog
import trio
import wsproto.connection
import wsproto.events
from h2.frame_buffer import FrameBuffer
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config, Sockets
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.events import (
    Body,
    Data,
    EndBody,
    InformationalResponse,
    Request,
    Response,
    StreamClosed,
    Trailers,
)
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, BUFFER_LOW_WATER, BufferCompleteError, H2Protocol, StreamBuffer
from hypercorn.protocol.http_stream import ASGIHTTPState
from hypercorn.protocol.ws_stream import ASGIWebsocketState, FrameTooLargeError, Handshake, WSStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.typing import ConnectionState
from wsproto.events import CloseConnection
from wsproto.frame_protocol import CloseReason

from app.errors import BadRequest, Overloaded, RequestTimeout
from app.flow.drain import DrainGate
from app.flow.threads import ThreadPool
from app.settings import ServerSettings
from app.wire.asgi import PEER, AsgiApp, Message
from app.wire.connection import Connection, Connections, refusal
from app.wire.drain import (
    Drain,
    Trigger,
    abandon_start,
    drain_after,
    drain_when_told,
    end_with_parent,
    refuse_when_all_end,
)
from app.wire.exchange import Disconnected
from app.wire.transport import PlainTransport, TlsTransport

_log = structlog.get_logger()
_handle = cast("Any", hypercorn_task_group)._handle
_parse_socket_addr = cast("Any", hypercorn_utils).parse_socket_addr

# What the answers to requests that are cut may take to leave; then Hypercorn cancels what is left of connections.
_CUT_SECONDS = 5.0
_LAST_WORDS_SECONDS = 1.0
# After a connection's last words what still comes is read and dropped.
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 16 * 1024 * 1024
# A TLS record holds this much; the stall limit asks for progress once a record.
_RECORD_BYTES = 16 * 1024
_READ_BYTES = 64 * 1024
_LAST_READ_SECONDS = 0.02
# Of a WebSocket that its application has not taken.
_MOST_MESSAGES = 4
# What Hypercorn calls a stream whose application has said all.
_ENDED = frozenset((ASGIHTTPState.CLOSED, ASGIWebsocketState.CLOSED, ASGIWebsocketState.HTTPCLOSED))
# Descriptors that are not clients': files, databases, pipes.
_OTHER_DESCRIPTORS = 400


def hypercorn_values(settings: ServerSettings) -> dict[str, Any]:
    """Hypercorn's configuration, by its names, from ours."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "bind": [f"{host}:{settings.port}"],
        "worker_class": "trio",
        "backlog": 1024,
        "keep_alive_timeout": settings.idle_timeout,
        "keep_alive_max_requests": 2**31,
        "graceful_timeout": settings.drain_timeout + _CUT_SECONDS,
        "shutdown_timeout": 30.0,
        "startup_timeout": 60.0,
        "ssl_handshake_timeout": settings.header_timeout,
        "h11_max_incomplete_size": settings.max_head_bytes,
        "h2_max_header_list_size": settings.max_head_bytes,
        "websocket_max_message_size": settings.max_json,
        "websocket_ping_interval": 25.0,
        "include_server_header": False,
        # Its lines join ours: a logger is pickled to the workers by name, and there it leads to standard error too.
        "errorlog": logging.getLogger("hypercorn.error"),
    }


def install(drain: Drain, settings: ServerSettings, io_threads: int) -> None:
    """Makes Hypercorn's Trio workers of this process serve as said above.

    Where Hypercorn does not look as expected, this says so in the log and leaves it as it is.
    """
    # Hypercorn starts its workers as daemons, which may have no processes of their own.
    multiprocessing.current_process().daemon = False
    connections = _install_connections(settings, io_threads)
    if connections is not None or settings.wire == "stock":
        hypercorn_run.worker_serve = partial(_serve_as_worker, hypercorn_run.worker_serve, drain, connections)


async def serve(
    app: Any, config: Config, sockets: Sockets, drain: Drain, settings: ServerSettings, io_threads: int
) -> bool:
    """Serves ``app`` in this process until a signal ends it; False where it could not start (which is logged)."""
    connections = _install_connections(settings, io_threads)
    app = ASGIWrapper(app)
    return await _serve(hypercorn_run.worker_serve, drain, connections, app, config, sockets=sockets)


def _install_connections(settings: ServerSettings, io_threads: int) -> Connections | None:
    if settings.wire == "stock":
        return None
    unexpected = _unexpected()
    if unexpected:
        _log.warning("hypercorn is not as expected; it serves as it is", missing=unexpected)
        return None
    connections = Connections(settings, _connection_limit(settings.max_connections))
    members = {"shared": connections, "threads": ThreadPool("sendfile", io_threads)}
    hypercorn_h11.WSStream = _WebSocket  # type: ignore[misc]
    hypercorn_protocol.H2Protocol = type("H2Protocol", (_Http2,), {"stall_timeout": settings.stall_timeout})  # type: ignore[misc]
    hypercorn_run.TCPServer = type("TCPServer", (_Connection,), members)  # type: ignore[misc]
    return connections


def _connection_limit(wanted: int) -> int:
    """As many as the process may have descriptors for, once it has asked for all that it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    most = wanted if soft == resource.RLIM_INFINITY else max(16, soft - _OTHER_DESCRIPTORS)
    if most < wanted:
        _log.warning("fewer connections than SLUICE_MAX_CONNECTIONS", wanted=wanted, limit=most, descriptors=soft)
    return min(wanted, most)


def _unexpected() -> list[str]:
    def coroutines(kind: Any, *names: str) -> dict[str, bool]:
        return {f"{kind.__name__}.{name}": inspect.iscoroutinefunction(getattr(kind, name, None)) for name in names}

    wanted = {"app", "config", "sockets", "shutdown_trigger", "task_status"}
    found = {
        "trio.run.worker_serve": wanted <= set(inspect.signature(hypercorn_run.worker_serve).parameters),
        "trio.run.TCPServer": getattr(hypercorn_run, "TCPServer", None) is TCPServer,
        "protocol.H2Protocol": getattr(hypercorn_protocol, "H2Protocol", None) is H2Protocol,
        **coroutines(TCPServer, "run", "protocol_send", "_close", "_idle_timeout", "_initiate_server_close"),
        **coroutines(
            H2Protocol, "stream_send", "send_task", "_send_data", "_handle_events", "_create_stream", "_flush"
        ),
        **coroutines(WSStream, "handle", "_accept", "_handle_events", "_send_wsproto_event"),
        **coroutines(TaskGroup, "spawn_app"),
        "h2.frame_buffer.FrameBuffer._data": isinstance(getattr(FrameBuffer(), "_data", None), bytearray),
    }
    return [name for name, as_expected in found.items() if not as_expected]


# -- serving -----------------------------------------------------------------------------------------------------------


async def _serve_as_worker(
    stock: Callable[..., Awaitable[None]], drain: Drain, connections: Connections | None, *args: Any, **kwargs: Any
) -> None:
    """`worker_serve` of a process that Hypercorn started.

    It goes on draining however often it is told: with several workers Hypercorn's master signals those that still
    drain as soon as the first is idle, and once more at its own exit.
    """
    started = await _serve(stock, drain, connections, *args, **kwargs)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not started:
        raise SystemExit(1)


async def _serve(
    stock: Callable[..., Awaitable[None]],
    drain: Drain,
    connections: Connections | None,
    app: Any,
    *args: Any,
    **kwargs: Any,
) -> bool:
    """Runs Hypercorn's own `worker_serve`, with a shutdown that begins by a signal or by its own trigger."""
    trigger = cast("Trigger | None", kwargs.pop("shutdown_trigger", None))
    sockets = cast("Sockets | None", kwargs.get("sockets"))
    listening = [] if sockets is None else [*sockets.secure_sockets, *sockets.insecure_sockets]
    stopped = trio.Event()
    watched = _WatchedApp(app)

    def stop_listening() -> None:
        stopped.set()
        if connections is not None:
            connections.finish()

    async with trio.open_nursery() as nursery:
        watched.scope = nursery.cancel_scope
        await nursery.start(drain_when_told, drain, stop_listening, nursery.cancel_scope)
        nursery.start_soon(abandon_start, drain.gate, watched.up, nursery.cancel_scope)
        if connections is not None:
            nursery.start_soon(connections.run)
            nursery.start_soon(_cut_others, drain.gate, connections)
        else:
            nursery.start_soon(_end_hard, drain.gate)
        if trigger is not None:
            nursery.start_soon(drain_after, trigger, drain.gate)
            nursery.start_soon(refuse_when_all_end, stopped, trigger, listening)
            nursery.start_soon(end_with_parent, drain.gate, nursery.cancel_scope)
        await stock(watched, *args, shutdown_trigger=stopped.wait, **kwargs)
        nursery.cancel_scope.cancel()
    return not watched.failed


async def _cut_others(gate: DrainGate, connections: Connections) -> None:
    """A client of another protocol that does not read would be waited for after its request was cut."""
    await gate.wait_cut()
    await trio.sleep(_LAST_WORDS_SECONDS)
    connections.cut_others()


async def _end_hard(gate: DrainGate) -> None:
    """Hypercorn as it comes waits for a client that does not read for as long as that likes."""
    await gate.wait_cut()
    await trio.sleep(_LAST_WORDS_SECONDS)
    _log.warning("ended with clients that do not read")
    os._exit(0)


class _WatchedApp:
    """The application; when it cannot start, Hypercorn ends here and now, else it would say that it is running."""

    def __init__(self, app: Any) -> None:
        self._app = app
        # What serves by itself calls the application as it was written.
        self.asgi: AsgiApp = cast("Any", app.app) if isinstance(app, ASGIWrapper) else partial(_call_wrapped, app)
        self.up = trio.Event()
        self.failed = False
        self.scope: trio.CancelScope | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any, *spawners: Any) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send, *spawners)
            return
        try:
            await self._app(scope, receive, partial(self._send, send), *spawners)
        except Exception:
            if self.up.is_set() and self.scope is not None:  # the rooms are gone: nobody is left to serve
                _log.exception("the application ended by itself")
                self.failed = True
                self.scope.cancel()
            raise

    async def _send(self, send: Any, message: Message) -> None:
        if message["type"] == "lifespan.startup.failed" and self.scope is not None:
            self.failed = True
            self.scope.cancel()
            await trio.sleep_forever()
        if message["type"] == "lifespan.startup.complete":
            self.up.set()
        await send(message)


async def _call_wrapped(app: Any, scope: Any, receive: Any, send: Any) -> None:
    await app(scope, receive, send, trio.to_thread.run_sync, trio.from_thread.run)


# -- connections -------------------------------------------------------------------------------------------------------


class _Connection(TCPServer):
    """One connection. Whatever it raises ends it alone."""

    shared: ClassVar[Connections]
    threads: ClassVar[ThreadPool]
    _reading: trio.CancelScope | None = None
    _held = False
    _watching: int | None = None
    _lingers = False

    async def run(self) -> None:
        with self.shared.counted() as wanted:
            try:
                await (self._run() if wanted else self._refuse())
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
    def _socket(self) -> trio.socket.SocketType:
        stream: Any = self.stream
        return getattr(stream, "transport_stream", stream).socket

    async def _refuse(self) -> None:
        """There are too many. TLS is not worth a handshake for that."""
        stream: Any = self.stream
        if isinstance(stream, trio.SSLStream) or self.shared.count > self.shared.limit + _OTHER_DESCRIPTORS // 2:
            return
        _log.info("connection refused", limit=self.shared.limit)
        error = Overloaded("the server has as many connections as it takes", retry_after=1)
        os.write(self._socket.fileno(), refusal(error, secrets.token_hex(8)))
        self._socket.shutdown(trio.socket.SHUT_WR)
        with trio.move_on_after(1):  # what it has sent would otherwise reset our answer away
            while await self._socket.recv(_READ_BYTES):
                pass

    async def _run(self) -> None:
        stream: Any = self.stream
        shared = self.shared
        secure = isinstance(stream, trio.SSLStream)
        alpn = None
        if secure:
            with trio.move_on_after(self.config.ssl_handshake_timeout) as handshake, shared.shaking_hands(handshake):
                try:
                    await stream.do_handshake()
                except trio.BrokenResourceError:
                    return
            if handshake.cancelled_caught:
                return
            alpn = stream.selected_alpn_protocol()
        client = _parse_socket_addr(self._socket.family, self._socket.getpeername())
        server = _parse_socket_addr(self._socket.family, self._socket.getsockname())
        rest: bytes | None = b""
        if alpn != "h2":
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
            app = cast("_WatchedApp", self.app).asgi
            rest = await Connection(app, base, transport, shared, mark).run()
            shared.readiness.forget(self._socket.fileno())
        if rest is not None:
            alpn = "h2" if rest.startswith(b"PRI ") else alpn
            await self._run_stock(rest, alpn, client, server, secure=secure)

    def _mark_request(self) -> None:
        self.context.requests += 1
        if self.context.max_requests is not None and self.context.requests > self.context.max_requests:
            cast("Any", self.context.terminate)._event.set()

    async def _run_stock(self, came: bytes, alpn: str | None, client: Any, server: Any, *, secure: bool) -> None:
        """Hypercorn's own protocols, on what ``came`` already and what follows."""
        scope = trio.CancelScope()
        self.shared.others.add(scope)
        try:
            with scope:
                await self._run_protocol(came, alpn, client, server, secure=secure)
        finally:
            self.shared.others.remove(scope)

    async def _run_protocol(self, came: bytes, alpn: str | None, client: Any, server: Any, *, secure: bool) -> None:
        try:
            self._task_group = group = _TaskGroup(self)
            async with group:
                self.protocol = ProtocolWrapper(
                    self.app,
                    self.config,
                    self.context,
                    group,
                    ConnectionState(self.state),
                    secure,
                    client,
                    server,
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
        if isinstance(protocol, _Http2):
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


class _TaskGroup(TaskGroup):
    """Spawns applications whose input is bounded without holding up the connection's reader."""

    applications: trio.Nursery

    def __init__(self, connection: _Connection) -> None:
        super().__init__()
        self.connection = connection

    def end(self) -> None:
        """Ends what else runs for the connection: timers, which would keep it for as long as they sleep."""
        cast("trio.Nursery", self._nursery).cancel_scope.cancel()

    async def spawn_app(self, app: Any, config: Config, scope: Any, send: Any) -> Any:
        mailbox = _Mailbox(self.connection, send.__self__.stream_id, send)
        scope["extensions"][PEER] = mailbox
        self.applications.start_soon(
            _handle, app, config, scope, mailbox.receive, mailbox.send, trio.to_thread.run_sync, trio.from_thread.run
        )
        return mailbox.put


class _Mailbox:
    """What one stream's application has not taken yet, and its `Peer`.

    Bound: of a body, the credit that its client was given (RFC 9113 5.2), which comes back as it is taken; of a
    WebSocket, `_MOST_MESSAGES`, past which its connection is not read.
    """

    scope: trio.CancelScope | None = None

    def __init__(self, connection: _Connection, stream_id: int, send: Callable[[Any], Awaitable[None]]) -> None:
        self._connection = connection
        self._stream_id = stream_id
        self._send = send
        self._messages: deque[Message] = deque()
        self._changed = trio.Event()
        self._gone = False
        self._whole = False
        self._call: Callable[[], None] | None = None

    def when_gone(self, call: Callable[[], None]) -> None:
        if self._gone:
            call()
        else:
            self._call = call

    async def put(self, message: Message) -> None:
        if message["type"].endswith(".disconnect"):
            self._gone = True
            call, self._call = self._call, None
            if call is not None and not self._answered:
                call()
        while message["type"] == "websocket.receive" and len(self._messages) >= _MOST_MESSAGES:
            with self._connection.holding():
                await self._changed.wait()
        self._messages.append(message)
        self._change()

    async def receive(self) -> Message:
        while not self._messages:
            await self._wait()
        message = self._messages[0]
        if message["type"].endswith(".disconnect"):  # which is the last one, for whoever asks again
            await trio.lowlevel.checkpoint()  # where whoever was told has cancelled us
        else:
            self._messages.popleft()
            self._change()
        if message["type"] == "http.request":
            self._whole = not message["more_body"]
            await self._give_credit(len(message["body"]))
        return message

    async def send(self, message: Message | None) -> None:
        """ASGI's send; None: the application has ended. *Errors*: Disconnected, once the client has left."""
        if message is not None and self._gone:  # Hypercorn would drop it: a route that sends for ever never ended
            await trio.lowlevel.checkpoint()
            raise Disconnected("the client has left")
        await self._send(message)

    async def _wait(self) -> None:
        stall = self._connection.shared.settings.stall_timeout
        awaits_body = isinstance(self._protocol, _Http2) and not self._whole
        with trio.move_on_after(stall if awaits_body else float("inf")) as waiting:
            await self._changed.wait()
        if waiting.cancelled_caught:
            raise RequestTimeout(f"no byte of the body came for {stall:g} s")

    async def _give_credit(self, size: int) -> None:
        if size and isinstance(self._protocol, _Http2):
            await self._protocol.give_credit(self._stream_id, size)

    @property
    def _answered(self) -> bool:
        """Whether all of the answer has been handed to the system, whether its application knows that or not."""
        protocol = self._protocol
        sent = isinstance(protocol, _Http2) and protocol.has_sent_all(self._stream_id)
        return sent or cast("Any", self._send).__self__.state in _ENDED

    @property
    def _protocol(self) -> Any:
        return self._connection.protocol.protocol

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _is_handshake(request: Request) -> bool:
    handshake = Handshake(request.headers, request.http_version)
    return handshake.is_valid() and re.fullmatch(rb"[A-Za-z0-9+/]{22}==", handshake.key or b"") is not None


class _WebSocket(WSStream):
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
    def _connection(self) -> _Connection:
        return cast("_TaskGroup", self.task_group).connection


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


class _Http2(H2Protocol):
    """HTTP/2 (RFC 9113), where a slow stream holds up no other.

    A body's credit (flow control, 5.2) is its stream's own, and comes back as the application takes it. Only the
    connection's reader and its sending task write; applications leave what they send to the latter, so that one that is
    cancelled takes no other with it. A stream is reset (8.1) rather than left open: one whose answer the application
    left unfinished, one whose client gives no credit for ``stall_timeout`` seconds, and one whose body nobody wants.

    WebSockets are not offered over it (RFC 8441): they share the one reader. Clients use HTTP/1.1 for them.
    """

    stall_timeout: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        codes = h2.settings.SettingCodes
        self.connection.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                codes.MAX_CONCURRENT_STREAMS: self.config.h2_max_concurrent_streams,
                codes.MAX_HEADER_LIST_SIZE: self.config.h2_max_header_list_size,
            },
        )
        self._uploading: set[int] = set()

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
        await super().handle(event)
        if not self.closed and self._frame_is_too_long:
            await self.say_goodbye(h2.errors.ErrorCodes.FRAME_SIZE_ERROR)
            await self.send(Closed())

    @property
    def _frame_is_too_long(self) -> bool:
        """Whether more is announced than a frame may have (4.2). h2 would look only once all of it, up to 16 MiB, is
        there."""
        size = bytes(cast("Any", self.connection.incoming_buffer)._data[:3])
        return int.from_bytes(size) > self.connection.max_inbound_frame_size

    async def say_goodbye(self, code: h2.errors.ErrorCodes = h2.errors.ErrorCodes.NO_ERROR) -> None:
        """GOAWAY (6.8)."""
        with suppress(h2.exceptions.ProtocolError):
            self.connection.close_connection(code)
            await self._flush()

    def has_sent_all(self, stream_id: int) -> bool:
        """Of a stream that was begun."""
        buffer = self.stream_buffers.get(stream_id)
        return buffer is None or buffer.complete

    async def give_credit(self, stream_id: int, size: int) -> None:
        """The application of that stream has taken ``size`` bytes of its body."""
        with suppress(h2.exceptions.ProtocolError):  # it is closed
            self.connection.increment_flow_control_window(size, stream_id)
            await self.has_data.set()

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            match event:
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
        stream = self.streams.get(event.stream_id)
        if stream is None:  # the answer is given; what still comes is dropped
            return
        if padding := size - len(data):
            await self.give_credit(event.stream_id, padding)
        if data:
            await stream.handle(Body(stream_id=event.stream_id, data=data))

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        given = dict(request.headers)
        if given[b":method"].upper() == b"CONNECT":
            await self._reset(request.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
            return
        if not (given[b":method"].isascii() and given[b":path"].isascii()):  # RFC 9113 8.1.1
            await self._reset(request.stream_id, h2.errors.ErrorCodes.PROTOCOL_ERROR)
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
