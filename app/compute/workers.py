"""A worker process as the local engine has it: what it was sent, what it says, and how it ends."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable

import structlog
import trio

from app.compute.messages import Garbled, Message
from app.compute.pipes import WorkerPipes
from app.compute.run import Run
from app.compute.worker import Orders, work
from app.flow.processes import ProcessDied, ProcessPool

_log = structlog.get_logger()

# From a process's end to its being noticed by that alone: mostly it has been noticed long before, by its pipes.
_NOTICE_SECONDS = 0.2


class Worker:
    """One process, from its start to its end.

    before: the one that it replaces. take: is called with each message. runs: the calls that it was sent, in order; it
    has read the first, or is about to. ready: whether it takes calls; was_ready: whether it ever did. retired: it ends
    when its calls have. replaceable: it has ended, or is to be replaced. died: how it ended, where it did so by itself.
    """

    def __init__(self, before: Worker | None, take: Callable[[Worker, Message], None]) -> None:
        self.before = before
        self.pipes = WorkerPipes()
        self.runs: deque[Run] = deque()
        self.ready = self.was_ready = self.retired = False
        self.replaceable = trio.Event()
        self.scope = trio.CancelScope()
        self.died: ProcessDied | None = None
        self._take = take
        self._garbled = False
        self._pid: int | None = None
        self._known = trio.Event()

    @property
    def pid(self) -> int | None:
        """None until it has told."""
        return self._pid

    async def live(self, pool: ProcessPool, orders: Orders, heard: Callable[[], None]) -> None:
        """Returns when the process has ended. heard: is called whenever it has said something.

        *Cancellation*, also of ``scope``: kills it.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, heard)
            nursery.start_soon(self._notice_end)
            with self.scope:
                try:
                    await pool.run(work, orders)
                except ProcessDied as died:
                    # By its traceback the process and its pipes would stay until they are collected.
                    died.__traceback__ = None
                    self.died = died
                    _log.warning("worker crashed", signal=died.signal, exit_code=died.exit_code)
                except Exception as error:  # noqa: BLE001 - whatever keeps it from its work; the next one is tried
                    _log.error("worker failed", reason=f"{type(error).__name__}: {error}")
            nursery.cancel_scope.cancel()

    def hear(self) -> None:
        """Takes all that it has said by now."""
        while self._read():
            pass

    def is_known(self, pid: int) -> None:
        """It has told which process it is."""
        self._pid = pid
        self._known.set()

    async def _listen(self, heard: Callable[[], None]) -> None:
        while not self._garbled:
            await trio.lowlevel.wait_readable(self.pipes)
            self._read()
            heard()

    def _read(self) -> bool:
        """Whether it has said something. One that cannot be understood is killed."""
        try:
            messages = self.pipes.read()
            for message in messages or ():
                self._take(self, message)
        except Garbled as error:
            _log.error("worker garbled its answers", reason=str(error))
            self._garbled = True
            self.ready = False
            self.scope.cancel()
            return False
        return messages is not None

    async def _notice_end(self) -> None:
        """A process that it forked, and that lives on, has copies of its pipes: these do not end with it."""
        await self._known.wait()
        try:
            descriptor = os.pidfd_open(self._pid or 0)
        except OSError:  # it has ended, or this kernel has none
            return
        try:
            await trio.lowlevel.wait_readable(descriptor)
            await trio.sleep(_NOTICE_SECONDS)
            self.scope.cancel()
        finally:
            os.close(descriptor)
