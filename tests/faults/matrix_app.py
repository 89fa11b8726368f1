"""What the cancellation matrix cancels, for Hypercorn: ``tests.faults.matrix_app:app``.

A route for each situation that a request may be in when it is ended, over HTTP and as a WebSocket. Each writes down,
in the file ``notes`` of the data folder, when it is there, and when it has left, with all that it held given back.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import trio

from app.cli import or_exit
from app.flow.processes import ProcessPool, open_processes
from app.flow.request import current_request
from app.flow.threads import ThreadPool
from app.settings import load_settings
from app.storage.mysql import MysqlDatabase, open_mysql
from app.wire.asgi import AsgiApp, Receive, Scope, Send
from tests.faults.matrix_places import PROCESSES, SLEEP, THREADS
from tests.faults.process_app import spin
from tests.under_hypercorn import application

_CHUNK = bytes(64 * 1024)
_STALLED_SECONDS = 0.04


@dataclass(frozen=True)
class Rooms:
    database: MysqlDatabase
    threads: ThreadPool
    processes: ProcessPool

    def statistics(self) -> dict[str, dict[str, Any]]:
        rooms = {"sql": self.database, "thread": self.threads, "process": self.processes}
        told = {name: asdict(room.statistics()) for name, room in rooms.items()}
        del told["sql"]["times"]  # which JSON does not have
        return told


class Notes:
    """Lines that the test reads while they are written: event, name of the request, and what the clock said."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def take(self, event: str, name: str, reason: str | None = None) -> None:
        line = {"event": event, "name": name, "at": time.monotonic(), "reason": reason}
        os.write(self._descriptor, json.dumps(line).encode() + b"\n")


class Situation:
    """One request, and what it comes to wait for. name: its request id."""

    def __init__(self, rooms: Rooms, notes: Notes, scope: Scope, receive: Receive, send: Send) -> None:
        self._rooms = rooms
        self._notes = notes
        self._receive = receive
        self._send = send
        self._socket = scope["type"] == "websocket"
        self._given = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        self._path = scope["path"]
        self._request = current_request.get()

    async def run(self) -> None:
        try:
            if self._socket:
                await self._receive()  # websocket.connect
                if self._path != "/before":
                    await self._send({"type": "websocket.accept"})
            await self._wait()
        finally:
            self._notes.take("left", self._request.id, self._request.reason)

    async def _wait(self) -> None:
        match self._path:
            case "/before":
                self._there()
                await trio.sleep_forever()
            case "/upload":
                await self._receive()
                self._there()
                await self._take_the_rest()
            case "/download":
                await self._send_for_ever()
            case "/sql":
                self._there()
                await self._rooms.database.fetch(SLEEP)
            case "/thread":
                self._there()
                ended = threading.Event()
                await self._rooms.threads.run_interruptible(ended.wait, ended.set)
            case "/process":
                self._there()
                await self._rooms.processes.run(spin)
            case path:
                raise ValueError(path)

    def _there(self) -> None:
        self._notes.take("there", self._request.id)

    async def _take_the_rest(self) -> None:
        while self._given["takes"] == "all":
            if (await self._receive())["type"].endswith(".disconnect"):
                break
        await trio.sleep_forever()

    async def _send_for_ever(self) -> None:
        sent = 0

        async def watch() -> None:
            before = -1
            while before != sent:
                before = sent
                await trio.sleep(_STALLED_SECONDS)
            self._there()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            if not self._socket:
                await self._send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                if self._socket:
                    await self._send({"type": "websocket.send", "bytes": _CHUNK})
                else:
                    await self._send({"type": "http.response.body", "body": _CHUNK, "more_body": True})
                sent += 1


async def _answer(rooms: Rooms, notes: Notes, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] not in {"/state", "/healthz", "/behind"}:
        await Situation(rooms, notes, scope, receive, send).run()
        return
    body = json.dumps(rooms.statistics()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def _open_rooms() -> AsyncGenerator[AsgiApp]:
    settings = or_exit(load_settings)
    notes = Notes(settings.reports.directory.parent / "notes")
    async with open_mysql(settings.database) as database, open_processes("matrix", PROCESSES) as processes:
        yield partial(_answer, Rooms(database, ThreadPool("matrix", THREADS), processes), notes)


app = application(_open_rooms)
