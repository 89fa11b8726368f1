"""The adapter to Hypercorn, and the only file that knows its internals (0.18).

Hypercorn keeps configuration, sockets, worker processes, reload, lifespan, TLS and the protocols. What is put in its
place here is looked up by `hypercorn.trio.run` when it serves, after it has imported the application:

- `worker_serve`, around which the drain runs: signals, the delay, the time-out, the cut;
- `TCPServer`, whose writes can be cancelled and have a stall limit, which sees from the socket that its peer has left,
  and whose errors end one connection only;
- `H2Protocol`, which would leave a stream open whose answer failed in the middle.
"""

from __future__ import annotations

import inspect
import logging
import os
import signal
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import h2.errors
import h2.exceptions
import hypercorn.protocol as hypercorn_protocol
import hypercorn.trio.run as hypercorn_run
import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config, Sockets
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Body, EndBody, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol, StreamBuffer
from hypercorn.trio.tcp_server import TCPServer

from app.flow.drain import DrainGate
from app.settings import ServerSettings
from app.wire.hangups import Hangups

_log = structlog.get_logger()

# What the answers to requests that are cut may take to leave; then Hypercorn cancels what is left of connections.
_CUT_SECONDS = 5.0
# What a second signal leaves them.
_HURRY_SECONDS = 1.0
# A TLS record holds this much; the stall limit asks for progress once a record.
_RECORD_BYTES = 16 * 1024
_READ_BYTES = 64 * 1024
_LAST_READ_SECONDS = 0.02

type Trigger = Callable[..., Awaitable[None]]


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
        "ssl_handshake_timeout": settings.stall_timeout,
        "include_server_header": False,
        # Its lines join ours: a logger is pickled to the workers by name, and there it leads to standard error too.
        "errorlog": logging.getLogger("hypercorn.error"),
    }


@dataclass(frozen=True)
class Drain:
    """How a worker ends. second_signal_cuts: whether being told twice ends what runs at once."""

    gate: DrainGate
    delay: float
    timeout: float
    second_signal_cuts: bool = False


def install(drain: Drain, stall_timeout: float) -> None:
    """Makes Hypercorn's Trio workers of this process serve as said above.

    Where Hypercorn does not look as expected, this says so in the log and leaves it as it is.
    """
    if _install_connections(stall_timeout):
        hypercorn_run.worker_serve = partial(_serve_as_worker, hypercorn_run.worker_serve, drain)


async def serve(app: Any, config: Config, sockets: Sockets, drain: Drain, stall_timeout: float) -> bool:
    """Serves ``app`` in this process until a signal ends it; False where it could not start (which is logged)."""
    _install_connections(stall_timeout)
    return await _serve(hypercorn_run.worker_serve, drain, ASGIWrapper(app), config, sockets=sockets)


def _install_connections(stall_timeout: float) -> bool:
    unexpected = _unexpected()
    if unexpected:
        _log.warning("hypercorn is not as expected; it serves as it is", missing=unexpected)
        return False
    limit = {"stall_timeout": stall_timeout}
    hypercorn_protocol.H2Protocol = type("H2Protocol", (_Http2,), limit)  # type: ignore[misc]
    hypercorn_run.TCPServer = type("TCPServer", (_Connection,), limit)  # type: ignore[misc]
    return True


def _unexpected() -> list[str]:
    wanted = {"app", "config", "sockets", "shutdown_trigger", "task_status"}
    found = {
        "trio.run.worker_serve": wanted <= set(inspect.signature(hypercorn_run.worker_serve).parameters),
        "trio.run.TCPServer": getattr(hypercorn_run, "TCPServer", None) is TCPServer,
        "TCPServer.protocol_send": inspect.iscoroutinefunction(getattr(TCPServer, "protocol_send", None)),
        "protocol.H2Protocol": getattr(hypercorn_protocol, "H2Protocol", None) is H2Protocol,
        "H2Protocol.stream_send": inspect.iscoroutinefunction(getattr(H2Protocol, "stream_send", None)),
        "TCPServer._read_data": inspect.iscoroutinefunction(getattr(TCPServer, "_read_data", None)),
        "TCPServer.run": inspect.iscoroutinefunction(getattr(TCPServer, "run", None)),
    }
    return [name for name, as_expected in found.items() if not as_expected]


async def _serve_as_worker(stock: Callable[..., Awaitable[None]], drain: Drain, *args: Any, **kwargs: Any) -> None:
    """`worker_serve` of a process that Hypercorn started.

    It goes on draining however often it is told: with several workers Hypercorn's master signals those that still
    drain as soon as the first is idle, and once more at its own exit.
    """
    started = await _serve(stock, drain, *args, **kwargs)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not started:
        raise SystemExit(1)


async def _serve(stock: Callable[..., Awaitable[None]], drain: Drain, app: Any, *args: Any, **kwargs: Any) -> bool:
    """Runs Hypercorn's own `worker_serve`, with a shutdown that begins by a signal or by its own trigger."""
    trigger = cast("Trigger | None", kwargs.pop("shutdown_trigger", None))
    # A worker's SIGINT is ignored: a terminal sends it to the whole group, and the master passes it on in its own way.
    signals = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signals.append(signal.SIGINT)
    listening = cast("Sockets | None", kwargs.get("sockets"))
    close_listeners = trio.Event()
    up = trio.Event()
    started = True

    async def watched(scope: Any, receive: Any, send: Any, *spawners: Any) -> None:
        """The application; when it cannot start, Hypercorn ends here and now, else it would say that it is running."""

        async def watching_send(message: Any) -> None:
            nonlocal started
            if message["type"] == "lifespan.startup.failed":
                started = False
                nursery.cancel_scope.cancel()
                await trio.sleep_forever()
            if message["type"] == "lifespan.startup.complete":
                up.set()
            await send(message)

        await app(scope, receive, watching_send if scope["type"] == "lifespan" else send, *spawners)

    with trio.open_signal_receiver(*signals) as received:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch_for_hangups)
            nursery.start_soon(_listen, received, drain, nursery.cancel_scope)
            nursery.start_soon(_abandon_start, drain.gate, up, nursery.cancel_scope)
            nursery.start_soon(_drain, drain, close_listeners)
            if trigger is not None:
                nursery.start_soon(_start_after, trigger, drain.gate)
                nursery.start_soon(_refuse_after, close_listeners, trigger, listening)
            await stock(watched, *args, shutdown_trigger=close_listeners.wait, **kwargs)
            nursery.cancel_scope.cancel()
    return started


async def _watch_for_hangups() -> None:
    _Connection.hangups = Hangups()
    try:
        await _Connection.hangups.run()
    finally:
        _Connection.hangups = None


async def _listen(received: AsyncIterator[int], drain: Drain, scope: trio.CancelScope) -> None:
    async for number in received:
        if not drain.gate.draining:
            running = drain.gate.statistics().running
            _log.info("shutting down", signal=signal.Signals(number).name, running=running)
            drain.gate.start()
        elif drain.second_signal_cuts:
            _log.info("cutting", signal=signal.Signals(number).name)
            drain.gate.cut()
            await trio.sleep(_HURRY_SECONDS)
            scope.cancel()


async def _abandon_start(gate: DrainGate, up: trio.Event, scope: trio.CancelScope) -> None:
    """A start that is told to end before it is done ends there and then: it may wait for a database."""
    await gate.wait_started()
    if not up.is_set():
        _log.info("start interrupted")
        scope.cancel()


async def _start_after(trigger: Trigger, gate: DrainGate) -> None:
    await trigger()
    if not gate.draining:
        _log.info("shutting down", running=gate.statistics().running)
        gate.start()


async def _drain(drain: Drain, close_listeners: trio.Event) -> None:
    await drain.gate.wait_started()
    with trio.move_on_after(drain.delay):
        await drain.gate.wait_cut()
    close_listeners.set()
    with trio.move_on_after(drain.timeout):
        await drain.gate.wait_idle()
    drain.gate.cut()


async def _refuse_after(close_listeners: trio.Event, trigger: Trigger, listening: Sockets | None) -> None:
    """When all workers end, nobody may connect any more: new connections are reset.

    The master holds the listening sockets too, until its own end; connections that the kernel took for it would wait
    for nobody. (Shutting the sockets down would fail the `accept` of a worker that has not been told yet.) A worker
    that ends alone leaves new connections to the others.
    """
    sockets = [] if listening is None else [*listening.secure_sockets, *listening.insecure_sockets]
    copies = [trio.socket.from_stdlib_socket(listener.dup()) for listener in sockets]
    try:
        await close_listeners.wait()
        await trigger()
        async with trio.open_nursery() as nursery:
            for copy in copies:
                nursery.start_soon(_reset_all, trio.SocketListener(copy))
    finally:
        for copy in copies:
            copy.close()


async def _reset_all(listener: trio.SocketListener) -> None:
    while True:
        try:
            stream = await listener.accept()
        except OSError:
            await trio.sleep(0.1)  # out of descriptors, or a client that was gone before us
        else:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.socket.close()


class _Connection(TCPServer):
    """One connection. Whatever it raises ends it alone."""

    stall_timeout: float
    hangups: ClassVar[Hangups | None] = None
    _reading: trio.CancelScope | None = None

    async def run(self) -> None:
        try:
            await super().run()
        except BaseExceptionGroup as group:
            cancelled, failed = group.split(trio.Cancelled)
            if failed is not None:
                _log.warning("connection failed", exc_info=failed)
            if cancelled is not None:
                raise cancelled from None
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends this connection and no other
            _log.warning("connection failed", exc_info=error)

    async def _read_data(self) -> None:
        """Reads until the peer leaves, which ends it also while what was read before still waits to be handled."""
        stream: Any = self.stream
        with trio.CancelScope() as reading, self._watching(stream, reading):
            self._reading = reading
            while data := await self._read_some(stream):
                await self.protocol.handle(RawData(data))
        await self.protocol.handle(Closed())

    async def _read_some(self, stream: Any) -> bytes:
        try:
            return bytes(await stream.receive_some(_READ_BYTES))
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return b""

    def _watching(self, stream: Any, reading: trio.CancelScope) -> AbstractContextManager[None]:
        if self.hangups is None:
            return nullcontext()

        def stop_soon() -> None:
            # What came before the end is there to be read: a request that was sent whole is known, and logged.
            reading.deadline = trio.current_time() + _LAST_READ_SECONDS

        return self.hangups.watching(getattr(stream, "transport_stream", stream).socket, stop_soon)

    async def protocol_send(self, event: Event) -> None:
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            if isinstance(event, Closed) and self._reading is not None:
                # With a further request in hand, Hypercorn's reader would wait for a turn that never comes.
                self._reading.cancel()
            return
        try:
            rest = memoryview(event.data)
            if not self.send_lock.locked():
                # Without a checkpoint: what fits into the socket's buffer leaves whole, whatever ends the request.
                rest = rest[self._write_nowait(rest) :]
            if rest:
                async with self.send_lock:
                    await self._write(rest)
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()
        except trio.Cancelled:
            # Part of it may be out: what would follow on this connection could be taken for the rest.
            await trio.aclose_forcefully(self.stream)
            raise
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await self.protocol.handle(Closed())
        except trio.TooSlowError:
            _log.info("connection stalled", seconds=self.stall_timeout)
            await trio.aclose_forcefully(self.stream)
            await self.protocol.handle(Closed())

    def _write_nowait(self, data: memoryview) -> int:
        """Bytes that went out at once: none over TLS, whose records Trio makes."""
        stream: Any = self.stream
        if isinstance(stream, trio.SSLStream):
            return 0
        try:
            return os.write(stream.socket.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def _write(self, rest: memoryview) -> None:
        """Writes all of ``rest``; TooSlowError where none of it moves for ``stall_timeout`` seconds."""
        while rest:
            with trio.fail_after(self.stall_timeout):
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


class _Http2(H2Protocol):
    """HTTP/2, where a stream is reset (RFC 9113 8.1) rather than left open: one whose answer the application left
    unfinished, and one whose client gives no credit (flow control, 5.2) for ``stall_timeout`` seconds."""

    stall_timeout: float

    async def stream_send(self, event: StreamEvent) -> None:
        buffer = self.stream_buffers.get(event.stream_id)
        if buffer is not None and isinstance(event, Body | EndBody):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._reset_when_stalled, event.stream_id, buffer)
                await super().stream_send(event)
                nursery.cancel_scope.cancel()
            return
        if buffer is not None and isinstance(event, StreamClosed) and not buffer._complete:
            await self._reset(event.stream_id)
        await super().stream_send(event)

    async def _reset_when_stalled(self, stream_id: int, buffer: StreamBuffer) -> None:
        left = -1
        while left != len(buffer.buffer):
            left = len(buffer.buffer)
            await trio.sleep(self.stall_timeout)
        _log.info("stream stalled", seconds=self.stall_timeout)
        await self._reset(stream_id)
        await buffer.close()  # which wakes the writer
        await self._close_stream(stream_id)  # which tells the application

    async def _reset(self, stream_id: int) -> None:
        with suppress(h2.exceptions.ProtocolError):  # the client has reset it already
            self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
            await self._flush()
