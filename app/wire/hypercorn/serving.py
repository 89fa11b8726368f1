"""A worker of Hypercorn's: its own `worker_serve`, with our drain around it, and an application that is watched."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Sockets

from app.flow.drain import DrainGate
from app.wire.asgi import AsgiApp, Message
from app.wire.connection import Connections
from app.wire.drain import (
    Drain,
    Trigger,
    abandon_start,
    drain_after,
    drain_when_told,
    end_with_parent,
    refuse_when_all_end,
)

_log = structlog.get_logger()

_LAST_WORDS_SECONDS = 1.0
# Until what was cut has written down how it ended, such as jobs whose tasks have to be killed first.
_CUT_SECONDS = 10.0


async def serve_as_worker(
    stock: Callable[..., Awaitable[None]], drain: Drain, connections: Connections | None, *args: Any, **kwargs: Any
) -> None:
    """`worker_serve` of a process that Hypercorn started.

    It goes on draining however often it is told: with several workers Hypercorn's master signals those that still
    drain as soon as the first is idle, and once more at its own exit.
    """
    started = await serve_until_told(stock, drain, connections, *args, **kwargs)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not started:
        raise SystemExit(1)


async def serve_until_told(
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
    watched = WatchedApp(app)

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
    with trio.move_on_after(_CUT_SECONDS):
        await gate.wait_idle()
    await trio.sleep(_LAST_WORDS_SECONDS)
    _log.warning("ended with clients that do not read")
    os._exit(0)


class WatchedApp:
    """The application; when it cannot start, or ends before it is told to, Hypercorn ends here and now.

    (It would say that it is running, and serve without the application's rooms.)
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        # What serves by itself calls the application as it was written.
        self.asgi: AsgiApp = cast("Any", app.app) if isinstance(app, ASGIWrapper) else partial(_call_wrapped, app)
        self.up = trio.Event()
        self.failed = False
        self._told = False
        self.scope: trio.CancelScope | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any, *spawners: Any) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send, *spawners)
            return
        try:
            await self._app(scope, partial(self._receive, receive), partial(self._send, send), *spawners)
        except Exception as raised:
            if self.up.is_set():
                self._end(raised)
            raise
        if self.up.is_set() and not self._told:
            self._end(None)

    def _end(self, raised: Exception | None) -> None:
        """The rooms are gone: nobody is left to serve."""
        _log.error("the application failed at its end" if self._told else "the application ended", exc_info=raised)
        self.failed = True
        if self.scope is not None:
            self.scope.cancel()

    async def _receive(self, receive: Any) -> Message:
        message = await receive()
        self._told = self._told or message["type"] == "lifespan.shutdown"
        return message

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
