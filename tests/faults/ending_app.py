"""A server whose rooms end by themselves as soon as they are asked to, for Hypercorn."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from app.wire.asgi import WHOLE, AsgiApp, Receive, Scope, Send
from tests.under_hypercorn import application


@asynccontextmanager
async def _open_rooms() -> AsyncGenerator[AsgiApp]:
    ends = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": WHOLE, "status": 200, "headers": [], "body": b"{}"})
        if scope["path"] == "/end":
            ends.set()

    async def fail() -> None:
        await ends.wait()
        raise OSError("what they stand on is gone")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        yield app
        nursery.cancel_scope.cancel()


app = application(_open_rooms)
