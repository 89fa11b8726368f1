"""Calls that take a processor for long, in processes of their own, each ended with the request that started it."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import trio
import trio_parallel  # pyright: ignore[reportMissingTypeStubs]
from outcome import Error, Outcome, Value

from app.flow.process_start import SIGNALS_OF_THE_SERVER, always, begin
from app.flow.spans import span

# An idle process ends as soon as it is told; one that does not is killed after this.
_END_SECONDS = 2.0
_untyped: Any = trio_parallel


def usable_cpus() -> int:
    """Processors that this process may use: by its affinity, and by the quota of its control group."""
    cpus = len(os.sched_getaffinity(0))
    for path in (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")):
        with suppress(OSError, ValueError):
            quota, *period = path.read_text().split()
            of = int(period[0] if period else path.with_name("cpu.cfs_period_us").read_text())
            if int(quota) > 0:  # "max" and -1: none
                cpus = min(cpus, max(1, math.ceil(int(quota) / of)))
    return cpus


def spare_cpus() -> int:
    """Of `usable_cpus`, all but the one that serves; at least one."""
    return max(1, usable_cpus() - 1)


class ProcessDied(Exception):
    """A process ended in the middle of a call: it crashed, or was killed by somebody else, such as the kernel that
    ran out of memory. Whether the call had its effect is unknown.

    exit_code: its own; where a signal ended it, that one's number below 0; None where it is not known.
    """

    def __init__(self, detail: str, exit_code: int | None = None) -> None:
        super().__init__(detail)
        self.exit_code = exit_code

    @property
    def signal(self) -> str | None:
        """The name of the signal that ended it, such as SIGSEGV."""
        if self.exit_code is None or self.exit_code >= 0:
            return None
        try:
            return signal.Signals(-self.exit_code).name
        except ValueError:
            return f"signal {-self.exit_code}"


@dataclass(frozen=True)
class ProcessStatistics:
    """name: of the pool. size: processes at most. busy: calls that have one. waiting: calls that wait for one.
    idle: processes that have no call, and stay for the next."""

    name: str
    size: int
    busy: int
    waiting: int
    idle: int


class ProcessPool:
    """At most ``size`` processes for calls that take a processor. They start when they are needed, and are kept.

    Bound: ``size`` processes; a call past it waits, in order, until it gets one or is cancelled.
    """

    def __init__(self, name: str, size: int, context: Any) -> None:
        self._name = name
        self._limiter = trio.CapacityLimiter(size)
        self._context = context
        self._calls: set[trio.CancelScope] = set()
        self._closed = False

    async def run[T](self, call: Callable[..., T], *arguments: object, grace: float = 0) -> T:
        """``call(*arguments)`` in a process.

        call, arguments, result: are pickled, and copied on the event loop. ``call`` is a function of a module, which
            the process imports.
        grace: seconds that a call has to end by itself once it is cancelled; for short ones, whose process is then
            there for the next.

        *Cancellation*: while waiting for a process, at once (or, with a grace, within that). Afterwards its process,
        and no other, is killed, and is gone when this returns; processes that ``call`` started itself are not.
        *Errors*: those of ``call``; `ProcessDied`; ClosedResourceError where the pool was closed.
        """
        if self._closed:
            raise self._closed_error()
        died: ProcessDied | None = None
        with span("process run", {"sluice.pool": self._name}), trio.CancelScope() as scope:
            self._calls.add(scope)
            try:
                calling = partial(self._context.run_sync, call, *arguments, kill_on_cancel=True, limiter=self._limiter)
                return cast("T", await (_with_grace(calling, grace) if grace else calling()))
            except trio_parallel.BrokenWorkerError as error:
                died = ProcessDied(f"a process of {self._name} ended in the middle of a call", _bury(error.args[-1]))
            finally:
                self._calls.remove(scope)
        # Not out of the handler: its error would hold on to what there is of the process.
        raise died or self._closed_error()

    def close(self) -> None:
        """Kills what runs; calls that run, wait or come fail with ClosedResourceError."""
        self._closed = True
        for scope in self._calls:
            scope.cancel()

    def statistics(self) -> ProcessStatistics:
        state = self._limiter.statistics()
        idle = self._context.statistics().idle_workers
        return ProcessStatistics(self._name, int(state.total_tokens), state.borrowed_tokens, state.tasks_waiting, idle)

    def _closed_error(self) -> trio.ClosedResourceError:
        return trio.ClosedResourceError(f"the processes of {self._name} are closed")


def preload(*modules: str) -> None:
    """Has processes start as copies of one that has loaded ``modules`` already: in a tenth of the time, and in memory
    that they share. To be called before the first of them starts. What is not found there, each loads by itself.

    modules: they must start no thread, and open nothing: all processes would have that in common.
    """
    multiprocessing.set_forkserver_preload(["__main__", "app.flow.fork_server", "app.flow.process_start", *modules])
    resource_tracker.ensure_running()  # which the next one needs, and which would let the signals through again
    # Until it has said so itself, it does not hear signals that are for the server.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS_OF_THE_SERVER)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@asynccontextmanager
async def open_processes(name: str, size: int, *, one_call: bool = False) -> AsyncGenerator[ProcessPool]:
    """A pool of at most ``size`` processes, which are gone when it is left, and when this process dies.

    one_call: whether a process is for one call, and ends with it.

    *Cancellation*: leaving takes what killing the running calls takes, and at most two seconds for idle processes.
    """
    # Hypercorn's workers are daemonic, and so may have no children. Only their parent, which ends them at its own end,
    # has a use for the flag, and it has a copy of its own.
    multiprocessing.current_process().daemon = False
    opening = _untyped.open_worker_context(
        init=begin,
        retire=always if one_call else bool,
        grace_period=_END_SECONDS,
        worker_type=_untyped.WorkerType.FORKSERVER,
    )
    context = await opening.__aenter__()
    pool = ProcessPool(name, size, context)
    try:
        yield pool
    finally:
        pool.close()
        # It complains of a process that had to be killed, or was by somebody else: gone is gone.
        with suppress(trio_parallel.BrokenWorkerError):
            await opening.__aexit__(None, None, None)


def _bury(process: BaseProcess) -> int | None:
    """Its exit code; its pipes are closed now, and not when somebody collects what is left of it."""
    code = process.exitcode
    process.close()
    return code


async def _with_grace(calling: Callable[[], Awaitable[Any]], grace: float) -> Any:
    """``await calling()``, which is cancelled ``grace`` seconds after we are."""
    scope = trio.CancelScope(shield=True)
    ended = trio.Event()
    found: Outcome[Any] | None = None

    async def call() -> None:
        nonlocal found
        with scope:
            try:
                found = Value(await calling())
            except Exception as error:  # noqa: BLE001 - the caller's, once it is out of the nursery
                found = Error(error)
        ended.set()

    left_by: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        try:
            await ended.wait()
        except trio.Cancelled as cancelled:
            left_by = cancelled
            scope.deadline = trio.current_time() + grace
    if left_by is not None or found is None:
        raise left_by or trio.BrokenResourceError("the call was given up")
    return found.unwrap()
