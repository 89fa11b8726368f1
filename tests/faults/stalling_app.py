"""A route that holds the event loop, for Hypercorn: ``tests.faults.stalling_app:app``."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from app.settings import load_settings
from app.telemetry.lag import LoopLag
from app.telemetry.watchdog import watching
from app.web.task_words import request_of
from app.wire.asgi import AsgiApp, Receive, Scope, Send
from tests.under_hypercorn import application


async def _route(scope: Scope, _receive: Receive, send: Send) -> None:
    if scope["path"] == "/blocks":
        blocks()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def blocks() -> None:
    time.sleep(0.4)


@asynccontextmanager
async def _watched() -> AsyncGenerator[AsgiApp]:
    lag = LoopLag()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        with watching(lag, load_settings().telemetry.stall_warn, request_of):
            yield _route
        nursery.cancel_scope.cancel()


app = application(_watched)
