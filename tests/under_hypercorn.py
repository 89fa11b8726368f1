"""Applications of the tests and of the benchmark, served as Sluice is: the same adapter, settings and boundary."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from app.cli import or_exit
from app.flow.drain import DrainGate
from app.settings import Settings, load_settings
from app.telemetry.logs import configure_logs
from app.web.lifespan import Server
from app.wire.asgi import AsgiApp, Receive, Scope, Send
from app.wire.drain import Drain
from app.wire.hypercorn import install

type OpenRooms = Callable[[], AbstractAsyncContextManager[AsgiApp]]


def application(open_rooms: OpenRooms) -> AsgiApp:
    """What Hypercorn loads, with what ``open_rooms()`` yields in the place of Sluice's rooms."""
    settings, gate = _install()
    return Server(open_rooms, gate, settings.server)


def bare(app: AsgiApp) -> AsgiApp:
    """What Hypercorn loads, with ``app`` right on the wire: no boundary, no log."""
    _install()

    async def with_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})

    return with_lifespan


@asynccontextmanager
async def no_rooms(app: AsgiApp) -> AsyncGenerator[AsgiApp]:
    """An application that needs none."""
    yield app


def _install() -> tuple[Settings, DrainGate]:
    settings = or_exit(load_settings)
    configure_logs(settings.telemetry.log_level)
    gate = DrainGate()
    server = settings.server
    install(Drain(gate, server.drain_delay, server.drain_timeout), server, settings.threads.io)
    return settings, gate
