"""What functions mean that are on a task's stack: the words in which its tree is told."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import CodeType
from typing import Any

import trio

from app.telemetry.nodes import Named

type Naming = Callable[[Mapping[str, Any]], Named | None]
"""What a function's local variables say of it; it must not change or keep them. None: it stands for nothing now."""

# What is told of a task whose stack says nothing better; the innermost counts.
_TRIO = {
    "sleep": [trio.sleep_until, trio.sleep_forever],
    "event": [trio.Event.wait],
    "lock": [trio.Lock.acquire],
    "condition": [trio.Condition.wait],
    "limiter": [trio.Semaphore.acquire, trio.CapacityLimiter.acquire_on_behalf_of],
    "channel full": [trio.MemorySendChannel[Any].send],
    "channel empty": [trio.MemoryReceiveChannel[Any].receive],
    "connections": [trio.SocketListener.accept],
    "socket": [trio.lowlevel.wait_readable, trio.lowlevel.wait_writable],
    "thread": [trio.to_thread.run_sync],
    "children": [trio.Nursery._nested_child_finished],
}


class Vocabulary:
    """names: functions that stand for something of its own. waits: what a task waits on that waits within a function.
    hoisted: functions whose tasks are nothing to their users; what these started is shown in their place.

    Functions are known by their code, so that it costs them nothing.
    """

    def __init__(
        self,
        names: Mapping[Callable[..., Any], Naming],
        waits: Mapping[Callable[..., Any], str],
        hoisted: tuple[Callable[..., Any], ...] = (),
    ) -> None:
        self._names = {id(code_of(function)): naming for function, naming in names.items()}
        self._strong = {id(code_of(function)): word for function, word in waits.items()}
        self._weak = {id(code_of(function)): word for word, functions in _TRIO.items() for function in functions}
        self._hoisted = {id(code_of(function)) for function in hoisted}
        self._kept = [code_of(function) for function in (*names, *waits, *hoisted)]  # their ids are no one else's then

    def naming(self, code: CodeType) -> Naming | None:
        return self._names.get(id(code))

    def is_hoisted(self, codes: Iterable[CodeType]) -> bool:
        return not self._hoisted.isdisjoint(map(id, codes))

    def waits_on(self, codes: list[CodeType]) -> str:
        """codes: from the outermost one in."""
        weak: str | None = None
        for code in reversed(codes):
            if (word := self._strong.get(id(code))) is not None:
                return word
            weak = weak or self._weak.get(id(code))
        return weak or "event"


def code_of(function: Callable[..., Any]) -> CodeType:
    """Of a coroutine function, however it is decorated."""
    unwrapped: Any = inspect.unwrap(function)
    return getattr(unwrapped, "__func__", unwrapped).__code__
