"""How many calls are under way to each host."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

MOST_PER_HOST = 64
_MOST_WAITING = 256


class HostBusy(Exception):
    """As many wait for it as may."""


@dataclass(frozen=True)
class HostStatistics:
    """calls: under way now, by host; waiting: for one of them to end."""

    calls: dict[str, int]
    waiting: dict[str, int]


class Hosts:
    """Permits for calls, of all sources together.

    Bound: ``most`` calls to a host, and ``most_waiting`` that wait for their turn, in order; more is refused. A host is
    known while there is a call to it.
    """

    def __init__(self, most: int = MOST_PER_HOST, most_waiting: int = _MOST_WAITING) -> None:
        self._most = most
        self._most_waiting = most_waiting
        self._limiters: dict[str, trio.CapacityLimiter] = {}

    @asynccontextmanager
    async def permit(self, host: str) -> AsyncGenerator[None]:
        """One call to ``host``. *Errors*: HostBusy. *Cancellation*: harmless."""
        limiter = self._limiters.get(host)
        if limiter is None:
            limiter = self._limiters[host] = trio.CapacityLimiter(self._most)
        elif limiter.available_tokens == 0 and limiter.statistics().tasks_waiting >= self._most_waiting:
            raise HostBusy(host)
        holder = object()
        try:
            await limiter.acquire_on_behalf_of(holder)
            try:
                yield
            finally:
                limiter.release_on_behalf_of(holder)
        finally:
            if not limiter.borrowed_tokens:  # then nobody waits for one
                self._limiters.pop(host, None)

    def statistics(self) -> HostStatistics:
        told = {host: limiter.statistics() for host, limiter in self._limiters.items()}
        return HostStatistics(
            {host: one.borrowed_tokens for host, one in told.items()},
            {host: one.tasks_waiting for host, one in told.items()},
        )
