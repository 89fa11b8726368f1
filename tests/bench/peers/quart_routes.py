"""Routes of the benchmark's own: a hello, and an upload that is consumed slowly."""

from __future__ import annotations

import trio
from quart import Blueprint, request

_BYTES_PER_SECOND = 1_000_000


def bench_blueprint() -> Blueprint:
    blueprint = Blueprint("bench", __name__)

    @blueprint.get("/hello")
    async def hello() -> tuple[str, dict[str, str]]:
        return "Hello, World!", {"content-type": "text/plain"}

    @blueprint.put("/upload")
    async def upload() -> str:
        """Takes `_BYTES_PER_SECOND`, however fast they come."""
        began, taken = trio.current_time(), 0
        async for chunk in request.body:
            taken += len(chunk)
            await trio.sleep_until(began + taken / _BYTES_PER_SECOND)
        return f"{taken}"

    return blueprint
