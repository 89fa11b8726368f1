"""What Sluice puts in the place of Hypercorn's own, and the settings that Hypercorn gets."""

from __future__ import annotations

import inspect
import logging
import multiprocessing
import resource
from contextlib import suppress
from functools import partial
from typing import Any

import hypercorn.protocol as hypercorn_protocol
import hypercorn.protocol.h2 as hypercorn_h2
import hypercorn.protocol.h11 as hypercorn_h11
import hypercorn.trio.run as hypercorn_run
import structlog
from h2.connection import H2Connection
from h2.frame_buffer import FrameBuffer
from h2.stream import H2Stream
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config, Sockets
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer

from app.flow.threads import ThreadPool
from app.settings import ServerSettings
from app.telemetry.metrics import metrics
from app.wire.connection import Connections
from app.wire.drain import Drain
from app.wire.hypercorn.client_connection import OTHER_DESCRIPTORS, ClientConnection
from app.wire.hypercorn.http2 import Http2
from app.wire.hypercorn.http_stream import HttpStream
from app.wire.hypercorn.serving import serve_as_worker, serve_until_told
from app.wire.hypercorn.websocket import WebSocket

_log = structlog.get_logger()

# What the answers to requests that are cut may take to leave; then Hypercorn cancels what is left of connections.
_CUT_SECONDS = 5.0
# What the application may take to close its rooms.
_CLOSE_SECONDS = 30.0


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
        # The rooms are closed while jobs still drain: those need no connection.
        "shutdown_timeout": settings.drain_timeout + _CLOSE_SECONDS,
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
        hypercorn_run.worker_serve = partial(serve_as_worker, hypercorn_run.worker_serve, drain, connections)


async def serve(
    app: Any, config: Config, sockets: Sockets, drain: Drain, settings: ServerSettings, io_threads: int
) -> bool:
    """Serves ``app`` in this process until a signal ends it; False where it could not start (which is logged)."""
    connections = _install_connections(settings, io_threads)
    app = ASGIWrapper(app)
    return await serve_until_told(hypercorn_run.worker_serve, drain, connections, app, config, sockets=sockets)


def _install_connections(settings: ServerSettings, io_threads: int) -> Connections | None:
    if settings.wire == "stock":
        return None
    unexpected = _unexpected()
    if unexpected:
        _log.warning("hypercorn is not as expected; it serves as it is", missing=unexpected)
        return None
    connections = Connections(settings, _connection_limit(settings.max_connections))
    metrics.read(connections.measures)
    members = {"shared": connections, "threads": ThreadPool("sendfile", io_threads)}
    hypercorn_h11.WSStream = WebSocket  # type: ignore[misc]
    hypercorn_h11.HTTPStream = hypercorn_h2.HTTPStream = HttpStream  # type: ignore[misc]
    timeouts = {"stall_timeout": settings.stall_timeout, "header_timeout": settings.header_timeout}
    hypercorn_protocol.H2Protocol = type("H2Protocol", (Http2,), timeouts)  # type: ignore[misc]
    hypercorn_run.TCPServer = type("TCPServer", (ClientConnection,), members)  # type: ignore[misc]
    return connections


def _connection_limit(wanted: int) -> int:
    """As many as the process may have descriptors for, once it has asked for all that it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    most = wanted if soft == resource.RLIM_INFINITY else max(16, soft - OTHER_DESCRIPTORS)
    if most < wanted:
        _log.warning("fewer connections than SLUICE_MAX_CONNECTIONS", wanted=wanted, limit=most, descriptors=soft)
    return min(wanted, most)


def _unexpected() -> list[str]:
    def coroutines(kind: Any, *names: str) -> dict[str, bool]:
        return {f"{kind.__name__}.{name}": inspect.iscoroutinefunction(getattr(kind, name, None)) for name in names}

    def methods(kind: Any, *names: str) -> dict[str, bool]:
        return {f"{kind.__name__}.{name}": callable(getattr(kind, name, None)) for name in names}

    wanted = {"app", "config", "sockets", "shutdown_trigger", "task_status"}
    found = {
        "trio.run.worker_serve": wanted <= set(inspect.signature(hypercorn_run.worker_serve).parameters),
        "trio.run.TCPServer": getattr(hypercorn_run, "TCPServer", None) is TCPServer,
        "protocol.H2Protocol": getattr(hypercorn_protocol, "H2Protocol", None) is H2Protocol,
        **coroutines(TCPServer, "run", "protocol_send", "_close", "_idle_timeout", "_initiate_server_close"),
        **coroutines(
            H2Protocol, "stream_send", "send_task", "_send_data", "_handle_events", "_create_stream", "_flush"
        ),
        **coroutines(HTTPStream, "app_send"),
        **coroutines(WSStream, "handle", "app_send", "_accept", "_handle_events", "_send_wsproto_event"),
        **coroutines(TaskGroup, "spawn_app"),
        **methods(H2Connection, "_begin_new_stream", "_receive_headers_frame", "_receive_priority_frame"),
        **methods(H2Stream, "_process_received_headers", "_initialize_content_length", "_track_content_length"),
        "h2.frame_buffer.FrameBuffer._data": isinstance(getattr(FrameBuffer(), "_data", None), bytearray),
        "h2.frame_buffer.FrameBuffer._headers_buffer": isinstance(
            getattr(FrameBuffer(), "_headers_buffer", None), list
        ),
    }
    return [name for name, as_expected in found.items() if not as_expected]
