"""What sockets tell, over one epoll that Trio waits for: who has sent something, and who has left.

Each socket is registered once, edge-triggered, for as long as its connection lives: waiting costs no system call, and
a peer's FIN or reset is seen also while nobody reads, because a request runs or a consumer is slow. (A reader sees the
end only after all that was sent before it.)
"""

from __future__ import annotations

import select
from collections.abc import Awaitable, Callable

import trio

from app.flow.waking import WOKEN
from app.wire.asgi import NOTHING

_GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Watched:
    """One socket. gone: its peer has sent FIN or RST; what it sent before can still be read.

    ready: something may have come since `readable` returned last.
    """

    __slots__ = ("_task", "gone", "on_gone", "ready")

    def __init__(self) -> None:
        self.gone = False
        self.on_gone: Callable[[], None] | None = None
        self.ready = False
        self._task: trio.lowlevel.Task | None = None

    def readable(self) -> Awaitable[object]:
        """Returns when something may have come since the last time: read until there is no more, then wait again.

        One task at a time, which awaits it as it calls it. *Cancellation*: harmless.
        """
        if self.ready:
            self.ready = False
            return NOTHING
        self._task = trio.lowlevel.current_task()
        return trio.lowlevel.wait_task_rescheduled(self._abort)  # noqa: ASYNC105 - whoever calls awaits it

    def wake(self) -> None:
        """Lets `readable` return, now or the next time."""
        task, self._task = self._task, None
        if task is None:
            self.ready = True
        else:
            trio.lowlevel.reschedule(task, WOKEN)

    def leave(self) -> None:
        """The peer has left."""
        if not self.gone:
            self.gone = True
            if self.on_gone is not None:
                self.on_gone()

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class Readiness:
    """The watched sockets of a process. Bound: an entry for each; a connection costs no task here."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Watched] = {}

    async def run(self) -> None:
        """Tells for as long as it runs; closes the epoll at the end."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                self._tell()
        finally:
            self._epoll.close()

    def watch(self, descriptor: int, *, reads: bool) -> Watched:
        """Watches the socket ``descriptor``; ``reads``: also for what it sends. `forget` it before it is closed."""
        watched = Watched()
        self._watched[descriptor] = watched
        self._epoll.register(descriptor, select.EPOLLET | select.EPOLLRDHUP | (select.EPOLLIN if reads else 0))
        return watched

    def forget(self, descriptor: int) -> None:
        """Ends `watch`; harmless where it has ended."""
        if self._watched.pop(descriptor, None) is not None and not self._epoll.closed:
            self._epoll.unregister(descriptor)

    def _tell(self) -> None:
        for descriptor, events in self._epoll.poll(0):
            watched = self._watched.get(descriptor)
            if watched is None:
                continue
            if events & _GONE:
                watched.leave()
            watched.wake()
