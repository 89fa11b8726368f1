"""A chain in worker processes, as three stages of a pipeline: what fills a pipe, whose turn it is, what empties one."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress

import trio

from app.errors import Overloaded
from app.flow.channels import Reader, Writer
from app.flow.pipelines import Stage
from app.flow.processes import ProcessPool
from app.transforms.chain import is_done
from app.transforms.step import PIECE_BYTES
from app.transforms.turns import Progress, turn

# Of both together there are 128 before a user without privileges gets smaller ones (pipe(7), pipe-user-pages-soft).
_PIPE_BYTES = 256 * 1024
# A turn is over long before this, and its process then is there for the next; after it, it is killed.
_GRACE_SECONDS = 0.1


class InProcesses:
    """A chain that a process works on while we fill the one pipe and empty the other.

    most: what may have flowed by now, of what has come by now. told: is called after each turn.

    Each of its stages is one of the pipeline, which ends them all with the first that fails; only `fill` reads from the
    stage before, and only `drain` writes to the one behind.

    Bound: both pipes, a piece on the way into the one and one out of the other, and what `turn` leaves. A chain has a
    process for a turn, and then waits for one, in order: what comes or goes slowly holds none.
    *Cancellation*: ends the turn, or kills its process; what is in the pipes is dropped.
    *Errors*: those of the chain, and of ``told``.
    """

    def __init__(
        self,
        processes: ProcessPool,
        progress: Progress,
        most: Callable[[], float],
        told: Callable[[Progress], object],
    ) -> None:
        self._processes = processes
        self._progress = progress
        self._most = most
        self._told = told
        self._source, self._sink = _Pipe(), _Pipe()

    @contextmanager
    def opened(self) -> Generator[None]:
        """*Errors*: Overloaded."""
        with self._source.opened(), self._sink.opened():
            yield

    async def fill(self, reader: Reader, _: Writer) -> None:
        async for piece in reader:
            await self._source.write(piece)
        self._source.close_writing()

    async def take_turns(self, _reader: Reader, _writer: Writer) -> None:
        pipes = os.getpid(), self._source.reading, self._sink.writing
        while not self._progress.finished:
            if not is_done(self._progress.chain):
                await trio.lowlevel.wait_readable(self._source.reading)
            self._progress.most = self._most()
            self._progress = await self._processes.run(turn, self._progress, *pipes, grace=_GRACE_SECONDS)
            self._told(self._progress)
            # It is not sent there and back with each turn until somebody has taken it all.
            left, self._progress.left = self._progress.left, []
            for piece in left:
                await self._sink.write(piece)
        self._sink.close_writing()

    async def drain(self, _: Reader, writer: Writer) -> None:
        while True:
            try:
                piece = os.read(self._sink.reading, PIECE_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._sink.reading)
                continue
            if not piece:
                return
            await writer.send(piece)

    def stages(self, around: Callable[[Stage], Stage]) -> Sequence[Stage]:
        """around: the turns."""
        return self.fill, around(self.take_turns), self.drain


class _Pipe:
    """reading, writing: descriptors, while it is opened. Nothing here blocks."""

    reading = writing = -1

    @contextmanager
    def opened(self) -> Generator[None]:
        """*Errors*: Overloaded."""
        try:
            self.reading, self.writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise Overloaded(
                "the server has as many files open as it may", retry_after=1, internal=str(error)
            ) from error
        try:
            with suppress(OSError):  # beyond what this user may have
                fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            yield
        finally:
            os.close(self.reading)
            self.close_writing()

    async def write(self, data: bytes) -> None:
        """*Cancellation*: a part of it has been written."""
        with memoryview(data) as rest:
            written = 0
            while written < len(rest):
                try:
                    written += os.write(self.writing, rest[written:])
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self.writing)

    def close_writing(self) -> None:
        """Idempotent."""
        if self.writing >= 0:
            os.close(self.writing)
            self.writing = -1
