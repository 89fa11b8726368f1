"""ASGI's lifespan: the rooms are open for as long as the server runs."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager

import structlog
import trio

from app.flow.drain import DrainGate
from app.settings import ServerSettings
from app.web.boundary import Boundary
from app.web.faults import start_errors
from app.wire.asgi import AsgiApp, Receive, Scope, Send

_log = structlog.get_logger()

type OpenRooms = Callable[[], AbstractAsyncContextManager[AsgiApp]]


class Server:
    """The ASGI application that a server loads: opens the rooms at start, closes them in reverse at the end.

    open_rooms: yields the application of the open rooms. gate: the drain that the requests pass.
    """

    def __init__(self, open_rooms: OpenRooms, gate: DrainGate, settings: ServerSettings) -> None:
        self._open_rooms = open_rooms
        self._gate = gate
        self._settings = settings
        self._app: AsgiApp | None = None

    @inspect.markcoroutinefunction  # by which Hypercorn knows an ASGI application
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "lifespan":
            return self._live(receive, send)
        if self._app is None:
            raise RuntimeError("Sluice needs a server that speaks the lifespan protocol of ASGI")
        return self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        started = False
        try:
            async with self._open_rooms() as app, trio.open_nursery() as nursery:
                boundary = Boundary(app, self._gate, self._settings)
                self._app = boundary.__call__
                nursery.start_soon(boundary.run)
                started = True
                with _left_alone_by_the_collector():
                    await send({"type": "lifespan.startup.complete"})
                    try:
                        await receive()  # lifespan.shutdown
                    finally:
                        self._app = None
                nursery.cancel_scope.cancel()
        except BaseException as raised:
            lines = start_errors(raised)
            if started or not (lines or isinstance(raised, Exception)):
                raise
            for line in lines:
                _log.error("start failed", reason=line)
            if not lines:  # without an answer Hypercorn would serve although nothing is there
                _log.error("start failed", exc_info=raised)
            await send({"type": "lifespan.startup.failed", "message": "; ".join(lines) or "unexpected error"})
            return
        finally:
            if started:
                drained = self._gate.statistics()
                _log.info("stopped", finished=drained.finished, cut=drained.cut)
        await send({"type": "lifespan.shutdown.complete"})


@contextmanager
def _left_alone_by_the_collector() -> Generator[None]:
    """What there is by now stays. It is most of all there is, and each look of the garbage collector at the whole of it
    would stop the event loop for longer than anything else does."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
