"""One time limit for many: who is in for too long is told."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from itertools import takewhile

import trio


class Timeouts[K: Hashable]:
    """Keys, each for at most ``seconds``; then ``expire(key)`` is called, which must not block or raise.

    As the limit is the same for all, they expire in the order in which they came: entering and leaving cost a
    dictionary's insertion and deletion, not a timer. Bound: the keys are connections, bounded elsewhere.

    now: seconds on a steady clock: Trio's, until it runs.
    """

    def __init__(self, seconds: float, expire: Callable[[K], None]) -> None:
        self._seconds = seconds
        self._expire = expire
        self._due: dict[K, float] = {}
        self._came = trio.Event()
        self.now: Callable[[], float] = trio.current_time

    def enter(self, key: K, now: float | None = None) -> None:
        """now: the time, where the caller knows it."""
        if not self._due:
            self._came.set()
        elif key in self._due:  # its time starts anew, and so does its place in the order
            del self._due[key]
        self._due[key] = (self.now() if now is None else now) + self._seconds

    def __contains__(self, key: K) -> bool:
        return key in self._due

    def left(self, key: K) -> float:
        """Seconds until ``key`` is told; infinite where it is not in."""
        due = self._due.get(key)
        return math.inf if due is None else due - self.now()

    def leave(self, key: K) -> None:
        """Harmless where ``key`` is not in."""
        self._due.pop(key, None)

    async def run(self) -> None:
        """Tells for as long as it runs."""
        self._look_at_the_clock()
        while True:
            if not self._due:
                self._came = trio.Event()
                await self._came.wait()
            # Whoever was first may have left meanwhile; then this is a look too early, and that is all.
            await trio.sleep(max(0.0, next(iter(self._due.values()), 0.0) - self.now()))
            for key in self._late(self.now()):
                if self._due.pop(key, None) is not None:  # an earlier one's end may have been this one's too
                    self._expire(key)

    def _look_at_the_clock(self) -> None:
        """Without what Trio adds to it, where time is nobody's to set."""
        clock = trio.lowlevel.current_clock()
        if type(clock).__name__ != "SystemClock":
            self.now = clock.current_time
            return
        ahead = time.perf_counter() - self.now()
        self.now = time.perf_counter
        self._due = {key: due + ahead for key, due in self._due.items()}

    def _late(self, now: float) -> list[K]:
        return [key for key, _ in takewhile(lambda entry: entry[1] <= now, self._due.items())]


async def checkpoint_if_ended() -> None:
    """`trio.lowlevel.checkpoint_if_cancelled`, also for who is late by a deadline that Trio has not looked at yet."""
    if trio.current_effective_deadline() <= trio.current_time():
        await trio.lowlevel.checkpoint()
