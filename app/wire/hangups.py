"""Who left, told by the socket itself: also behind data that nobody has read yet."""

from __future__ import annotations

import select
from collections.abc import Callable, Generator
from contextlib import contextmanager

import trio


class Hangups:
    """Tells of each peer's FIN or reset, once, over one epoll that Trio waits for; a connection costs no task.

    (A reader sees the end only after all that was sent before it. Who does not read, because a request runs or a
    consumer is slow, would not see it at all.)

    Bound: an entry for each watched socket.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[], None]] = {}

    async def run(self) -> None:
        """Calls back for as long as it runs; closes the epoll at the end."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                for descriptor, _ in self._epoll.poll(0):
                    on_hangup = self._watched.get(descriptor)
                    if on_hangup is not None:
                        on_hangup()
        finally:
            self._epoll.close()

    @contextmanager
    def watching(self, socket: trio.socket.SocketType, on_hangup: Callable[[], None]) -> Generator[None]:
        """Calls ``on_hangup()``, which must not block, when the peer of ``socket`` leaves within the block."""
        descriptor = socket.fileno()
        self._watched[descriptor] = on_hangup
        # Edge-triggered: the end stays, and would be told again and again.
        self._epoll.register(descriptor, select.EPOLLRDHUP | select.EPOLLET)
        try:
            yield
        finally:
            # A socket that was closed has left the epoll by itself, and its number may be another's by now.
            if self._watched.get(descriptor) is on_hangup:
                del self._watched[descriptor]
                if socket.fileno() == descriptor and not self._epoll.closed:
                    self._epoll.unregister(descriptor)
