"""The workers of one master: a scrape of one tells of all."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from multiprocessing.process import BaseProcess
from typing import cast

import structlog
import trio

from app.flow.threads import ThreadPool
from app.telemetry.exposition import add_process
from app.telemetry.families import WORKERS
from app.telemetry.runtime_folder import RuntimeFolder
from app.telemetry.snapshots import Snapshot, add, decode, encode, merge

_log = structlog.get_logger()

# A sibling that does not answer in time is not waited for: it may be stopped, or hold its loop up.
_ANSWER_SECONDS = 1.0
_MOST_BYTES = 16 * 1024 * 1024
_READ_BYTES = 64 * 1024
_THREADS = 2

type Read = Callable[[], Snapshot]


class Siblings:
    """This process, and the other workers of its master, where it has one.

    threads: their own, so that metrics can be had when those of others are busy.

    Bound: the answer of each sibling, `_MOST_BYTES`; it is waited for `_ANSWER_SECONDS`, all at once.
    """

    def __init__(self, read: Read, folder: RuntimeFolder | None) -> None:
        self.threads = ThreadPool("metrics", _THREADS)
        self._read = read
        self._folder = folder
        self._name = f"{os.getpid()}-{time.time_ns()}"
        self._ended = False

    async def collect(self) -> Snapshot:
        """What all workers have counted, those included that have ended."""
        own = await self._told()
        if self._folder is None:
            add(own, WORKERS, ("answered",), 1.0)
            return own
        answered: dict[str, Snapshot] = {}
        gone: list[str] = []
        names = [name for name in await self.threads.run(self._folder.names) if name != self._name]
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(self._ask, name, answered, gone)
        counts = await self.threads.run(partial(self._folder.others, {**answered, self._name: own}, gone))
        merged = await self.threads.run(partial(merge, counts))
        silent = len(names) - len(answered) - len(gone)
        add(merged, WORKERS, ("answered",), 1.0 + len(answered))
        add(merged, WORKERS, ("silent",), float(silent))
        return merged

    async def serve(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        """Answers siblings, until it is cancelled."""
        if self._folder is None:
            task_status.started(None)
            return
        listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        folder = os.open(self._folder.path, os.O_PATH)
        try:
            # By its descriptor, for a socket's path is short. It gets its name once it takes connections: what has
            # one and takes none is dead.
            await listener.bind(f"/proc/self/fd/{folder}/{self._name}.new")
            listener.listen()
            os.rename(f"{self._name}.new", f"{self._name}.sock", src_dir_fd=folder, dst_dir_fd=folder)
            await trio.serve_listeners(self._answer, [trio.SocketListener(listener)], task_status=task_status)
        finally:
            os.close(folder)
            listener.close()

    async def end(self) -> None:
        """Keeps what this process has counted for those who come after it. *Errors*: OSError."""
        if self._folder is not None:
            await self._told()
            await self.threads.run(partial(self._folder.leave, self._name))

    async def _told(self) -> Snapshot:
        """This process's, which is kept before it is told."""
        snapshot = self._read()
        return await self.threads.run(partial(self._keep, snapshot))

    def _keep(self, snapshot: Snapshot) -> Snapshot:
        add_process(snapshot)
        if self._folder is not None:
            self._folder.write(self._name, snapshot)
        return snapshot

    async def _answer(self, stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, OSError), trio.move_on_after(_ANSWER_SECONDS):
            snapshot = await self._told()
            await stream.send_all(await self.threads.run(partial(encode, snapshot)))
        stream.socket.close()

    async def _ask(self, name: str, answered: dict[str, Snapshot], gone: list[str]) -> None:
        with trio.move_on_after(_ANSWER_SECONDS):
            try:
                data = await self._receive(name)
                answered[name] = await self.threads.run(partial(decode, data))
            except (ConnectionRefusedError, FileNotFoundError):
                gone.append(name)
            except (OSError, trio.BrokenResourceError):  # it ended, or was about to, while it answered
                pass
            except ValueError as error:  # likewise; or what it tells is not what we take
                _log.warning("a worker's metrics are not understood", worker=name, reason=str(error))

    async def _receive(self, name: str) -> bytes:
        folder = os.open(cast("RuntimeFolder", self._folder).path, os.O_PATH)
        client = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await client.connect(f"/proc/self/fd/{folder}/{name}.sock")
            data = bytearray()
            while len(data) < _MOST_BYTES and (came := await client.recv(_READ_BYTES)):
                data += came
            return bytes(data)
        finally:
            client.close()
            os.close(folder)


@asynccontextmanager
async def open_siblings(read: Read) -> AsyncGenerator[Siblings]:
    """read: what this process has counted. Where there is no place for a folder, each worker tells of itself."""
    parent = multiprocessing.parent_process()
    folder = None if parent is None else await trio.to_thread.run_sync(_folder_of, parent)
    siblings = Siblings(read, folder)
    async with trio.open_nursery() as nursery:
        await nursery.start(siblings.serve)
        try:
            yield siblings
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):  # files, which take no time
                await _end(siblings)
                if folder is not None and parent is not None and not parent.is_alive():
                    await siblings.threads.run(folder.remove)  # nobody comes after us


def _folder_of(parent: BaseProcess) -> RuntimeFolder | None:
    try:
        return RuntimeFolder.of(cast("int", parent.pid))
    except OSError as error:
        _log.warning("metrics are of each worker alone", reason=str(error))
        return None


async def _end(siblings: Siblings) -> None:
    try:
        await siblings.end()
    except OSError as error:
        _log.warning("counts of a worker are lost", reason=str(error))
