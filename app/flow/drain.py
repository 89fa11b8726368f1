"""The drain at shutdown: running requests finish in time, what is left is cut, and both are counted."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from app.flow.request import RequestScope


@dataclass(frozen=True)
class DrainStatistics:
    """running: requests now. finished, cut: how those ended that ended since the drain began."""

    draining: bool
    running: int
    finished: int
    cut: int


class DrainGate:
    """Every running request of a process, and the two signals of its end: please finish, and enough.

    draining: no longer ready.

    Bound: one entry for each running request; their number is bounded by that of the connections.
    """

    def __init__(self) -> None:
        self.draining = False
        self._running: dict[RequestScope, None] = {}
        self._idle: trio.Event | None = None  # while somebody waits for it
        self._draining = trio.Event()
        self._is_over = False
        self._over = trio.Event()
        self._finished = 0
        self._cut = 0

    def enter(self, request: RequestScope) -> None:
        r"""Counts ``request`` as running until it `leave`\ s; after `cut` it is cancelled at once."""
        self._running[request] = None
        if self._is_over:
            request.cancel("shutdown")

    def leave(self, request: RequestScope) -> None:
        del self._running[request]
        if self.draining:
            self._cut += request.reason == "shutdown"
            self._finished += request.reason != "shutdown"
        if self._idle is not None and not self._running:
            self._idle.set()
            self._idle = None

    def start(self) -> None:
        """Not ready any more, and answers ask their clients to leave; requests still come and are served."""
        self.draining = True
        self._draining.set()

    def cut(self) -> None:
        """Cancels every running request, for the reason ``shutdown``."""
        self._is_over = True
        self._over.set()
        for request in self._running:
            request.cancel("shutdown")

    async def wait_started(self) -> None:
        await self._draining.wait()

    async def wait_cut(self) -> None:
        await self._over.wait()

    async def wait_idle(self) -> None:
        """Returns when no request runs. *Cancellation*: harmless."""
        while self._running:
            if self._idle is None:
                self._idle = trio.Event()
            await self._idle.wait()

    def statistics(self) -> DrainStatistics:
        return DrainStatistics(self.draining, len(self._running), self._finished, self._cut)
