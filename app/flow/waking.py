"""What a task is woken with that waits in `trio.lowlevel.wait_task_rescheduled`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

from outcome import Outcome


class _Woken(Outcome[None]):
    """No value. Trio's own outcome is made anew for each who is woken, and can be used once; this one serves all."""

    __slots__ = ()

    def unwrap(self) -> None:
        pass

    def send[T](self, gen: Generator[T, None, Any]) -> T:
        return gen.send(None)

    async def asend[T](self, agen: AsyncGenerator[T, None]) -> T:
        return await agen.asend(None)


WOKEN = _Woken()
"""For ``trio.lowlevel.reschedule(task, WOKEN)``: each request is woken twice."""
