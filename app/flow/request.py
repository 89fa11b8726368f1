"""A request is a nursery: the scope that ends everything a request started, and the reason why it was ended."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

import trio

type Reason = Literal["disconnected", "deadline", "shutdown"]


@dataclass
class RequestScope:
    """One request, from its first byte to its last.

    id: its request id. trace_id: the trace that it belongs to, or None.
    resources: closed when the request ends, whatever ends it; for what an answer holds (such as an open file) between
        the moment it is chosen and the moment it is sent. Callbacks are sync.
    reason: why the request was cancelled; None while it was not.

    *Cancellation*: `cancel` ends all that runs within `scope`; the first reason stays.
    """

    id: str
    trace_id: str | None = None
    resources: ExitStack = field(default_factory=ExitStack)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    reason: Reason | None = None
    _lasts: bool = True
    _seconds: float = math.inf

    def set_deadline(self, seconds: float, *, lasts: bool) -> None:
        """Ends the request ``seconds`` from now. ``lasts``: also while its answer is on the way to the client.

        One that does not last counts only while the answer does not move: see `moving`.
        """
        self.scope.deadline = trio.current_time() + seconds
        self._seconds = seconds
        self._lasts = lasts

    @contextmanager
    def moving(self) -> Generator[None]:
        """A part of the answer is on its way: meanwhile the stall limit of the write counts; then time starts anew."""
        if self._lasts:
            yield
            return
        self.scope.deadline = math.inf
        yield
        self.scope.deadline = trio.current_time() + self._seconds

    def cancel(self, reason: Reason) -> None:
        if not self.scope.cancel_called:  # also True once the deadline has passed
            self.reason = reason
            self.scope.cancel()

    @property
    def ended_by(self) -> Reason | None:
        """What ended the request from outside: the first reason, or the deadline when its scope ran into that."""
        if self.reason is None and self.scope.cancelled_caught:
            return "deadline"
        return self.reason


current_request: ContextVar[RequestScope] = ContextVar("current_request")
"""The request that the running task belongs to."""
