"""Blocking calls in threads, under named limits, and ended with their request where the call can be interrupted."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from weakref import WeakSet

import trio

from app.flow.histograms import Histogram
from app.flow.spans import Span, current


@dataclass(frozen=True)
class ThreadStatistics:
    """name: of the pool. size: threads at most. busy: in use now. waiting: calls that wait for a thread."""

    name: str
    size: int
    busy: int
    waiting: int


class _Places:
    """A limiter, as `trio.to_thread` uses it, that tells how long is waited for it."""

    def __init__(self, limiter: trio.CapacityLimiter, waits: Histogram) -> None:
        self._limiter = limiter
        self._waits = waits
        self.release_on_behalf_of = limiter.release_on_behalf_of

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        try:
            self._limiter.acquire_on_behalf_of_nowait(borrower)  # others get their turn while the thread is at it
        except trio.WouldBlock:
            began = trio.current_time()
            await self._limiter.acquire_on_behalf_of(borrower)
            self._waits.observe(trio.current_time() - began)
        else:
            self._waits.observe(0.0)


class ThreadPool:
    """At most ``size`` threads for one kind of blocking call. waits: how long calls have waited for theirs, in seconds.

    Bound: ``size`` threads; a call past it waits, in order, until it gets one or is cancelled.
    """

    def __init__(self, name: str, size: int) -> None:
        self.waits = Histogram()
        self._name = name
        self._limiter = trio.CapacityLimiter(size)
        self._places = cast("Any", _Places(self._limiter, self.waits))
        _pools.add(self)

    async def run[T](self, call: Callable[[], T]) -> T:
        """``call()`` in a thread.

        *Cancellation*: while waiting for a thread, at once. Once the call runs it is waited for: use this for calls
        that end soon by themselves, so that none outlives the request that started it.
        """
        return await self._run(call, abandon=False)

    async def run_or_abandon[T](self, call: Callable[[], T]) -> T:
        """``call()`` in a thread, for a call that asks whether something hangs, and leaves nothing behind.

        *Cancellation*: at once. A call that runs is left behind, and keeps its place in the pool until it ends.
        """
        return await self._run(call, abandon=True)

    async def run_interruptible[T](self, call: Callable[[], T], interrupt: Callable[[], object]) -> T:
        """``call()`` in a thread, ended by ``interrupt()`` when the caller is cancelled.

        interrupt: makes a running ``call`` raise soon; harmless, and possibly lost, when called at any other moment,
            which is why it is repeated until the call has ended.

        *Cancellation*: at once while the call has not begun, and it then never begins; otherwise as soon as the
        interrupted call has ended. The result of a call that ended in spite of it is dropped.
        """
        job = _Job()
        try:
            return await self._run(partial(job.run, call), abandon=True)
        except trio.Cancelled:
            if job.withdraw():
                with trio.CancelScope(shield=True):
                    while not job.ended:
                        interrupt()
                        await trio.sleep(0.002)
            raise

    async def _run[T](self, call: Callable[[], T], *, abandon: bool) -> T:
        parent = current()
        if parent is None:
            return await trio.to_thread.run_sync(call, limiter=self._places, abandon_on_cancel=abandon)
        timed = _Timed(call, has_to_wait=self._limiter.available_tokens < 1)
        error: BaseException | None = None
        try:
            return await trio.to_thread.run_sync(timed.run, limiter=self._places, abandon_on_cancel=abandon)
        except BaseException as raised:
            error = raised
            raise
        finally:
            timed.tell(parent, self._name, error)

    def statistics(self) -> ThreadStatistics:
        state = self._limiter.statistics()
        return ThreadStatistics(self._name, int(state.total_tokens), state.borrowed_tokens, state.tasks_waiting)


_pools: WeakSet[ThreadPool] = WeakSet()


def pools() -> list[ThreadPool]:
    """Those of this process."""
    return list(_pools)


async def in_threads[T](items: Iterator[T]) -> AsyncGenerator[T]:
    """``items``, each taken in a thread of Trio's own. *Cancellation*: between two of them."""
    end = object()
    while (item := await trio.to_thread.run_sync(next, items, end)) is not end:
        yield cast("T", item)


class _Timed[T]:
    """One call, and when it began and ended, by the wall clock; told by whoever waits for it, and not in its thread."""

    def __init__(self, call: Callable[[], T], *, has_to_wait: bool) -> None:
        self._call = call
        self._has_to_wait = has_to_wait
        self._came = time.time_ns()
        self._began = self._ended = 0

    def run(self) -> T:
        self._began = time.time_ns()
        try:
            return self._call()
        finally:
            self._ended = time.time_ns()

    def tell(self, parent: Span, pool: str, error: BaseException | None) -> None:
        began, now = self._began, time.time_ns()
        if self._has_to_wait or not began:
            parent.add("thread wait", self._came, began or now, {"sluice.pool": pool}, None if began else error)
        if began:
            parent.add("thread run", began, self._ended or now, {"sluice.pool": pool}, error)


class _Job:
    """One call in a thread that its caller may give up: it is either withdrawn before it begins, or begun."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = False
        self._withdrawn = False
        self.ended = False

    def run[T](self, call: Callable[[], T]) -> T:
        with self._lock:
            if self._withdrawn:
                # The caller has left; nobody sees this.
                raise trio.ClosedResourceError("the caller left before the call began")
            self._begun = True
        try:
            return call()
        finally:
            self.ended = True

    def withdraw(self) -> bool:
        """Keeps the call from beginning; True where it already began."""
        with self._lock:
            self._withdrawn = True
            return self._begun
