"""Sluice with routes that call into worker processes, for Hypercorn: ``tests.faults.process_app:build()``.

It is `app.asgi`, so requests come through the same boundary and drain; a pool of processes is opened beside its rooms.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

SIZE = 2


def add(a: int, b: int, seconds: float = 0) -> tuple[int, int]:
    """The sum and the process that made it, which took ``seconds`` for it."""
    begin()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return a + b, os.getpid()


def spin() -> None:
    begin()
    while True:
        pass


def hold() -> None:
    """Like `spin`, in C: no other thread of the process gets the interpreter's lock."""
    begin()
    sum(range(10**12))


def begin() -> None:
    """Tells the test, in the data folder, which process has a call."""
    Path(f"call-{time.monotonic_ns()}-{os.getpid()}").touch()


def build() -> Any:
    # Not above: worker processes import this module for the calls, and start faster without the server.
    from app import asgi
    from app.flow.processes import ProcessPool, open_processes

    async def routes(pool: ProcessPool, sluice: Any, scope: Any, receive: Any, send: Any) -> None:
        given = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        match scope["path"]:
            case "/spin":
                await pool.run(spin)
            case "/hold":
                await pool.run(hold)
            case "/add":
                total, process = await pool.run(add, int(given["a"]), int(given["b"]), float(given.get("seconds", 0)))
                answer = {"sum": total, "process": process, "worker": os.getpid()}
                body = json.dumps(answer).encode()
                fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
                await send({"type": "http.response.start", "status": 200, "headers": fields})
                await send({"type": "http.response.body", "body": body})
            case _:
                await sluice(scope, receive, send)

    @asynccontextmanager
    async def open_rooms() -> AsyncGenerator[Any]:
        async with open_processes("test", SIZE) as pool, open_sluice() as sluice:
            yield partial(routes, pool, sluice)

    server = asgi.app
    open_sluice = server._open_rooms
    server._open_rooms = open_rooms
    return server
