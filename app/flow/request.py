"""A request is a nursery: the scope that ends everything a request started, and the reason why it was ended."""

from __future__ import annotations

import math
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Literal

import trio

from app.flow.timeouts import Timeouts

type Reason = Literal["disconnected", "deadline", "shutdown"]


class RequestScope:
    """One request, from its first byte to its last.

    id: its request id. trace_id: the trace that it belongs to, or None. traceparent, tracestate: what names it to whom
    it calls. scope: what ends all that the request started; its own, unless one is given. timeouts: the limit that it
    shares with others, where it does, and that does not last; whoever makes it enters it there.
    reason: why the request was cancelled; None while it was not. sent_now: bytes of its answer that went another way
    than by ``send``.

    *Cancellation*: `cancel` ends all that runs within `scope`; the first reason stays.
    """

    __slots__ = (
        "_lasts",
        "_moving",
        "_resources",
        "_seconds",
        "_timeouts",
        "id",
        "reason",
        "scope",
        "sent_now",
        "trace_id",
        "traceparent",
        "tracestate",
    )

    def __init__(
        self,
        id: str,
        trace_id: str | None = None,
        scope: trio.CancelScope | None = None,
        timeouts: Timeouts[RequestScope] | None = None,
    ) -> None:
        self.id = id
        self.trace_id = trace_id
        self.traceparent: str | None = None
        self.tracestate: bytes | None = None
        self.scope = trio.CancelScope() if scope is None else scope
        self.reason: Reason | None = None
        self.sent_now = 0
        self._resources: ExitStack | None = None
        self._lasts = timeouts is None
        self._moving = 0
        self._seconds = math.inf
        self._timeouts = timeouts

    @property
    def resources(self) -> ExitStack:
        """Closed when the request ends, whatever ends it; for what an answer holds (such as an open file) between the
        moment it is chosen and the moment it is sent. Callbacks are sync."""
        if self._resources is None:
            self._resources = ExitStack()
        return self._resources

    def close(self) -> None:
        """The request has ended."""
        if self._timeouts is not None and not self._moving:
            self._timeouts.leave(self)
        if self._resources is not None:
            self._resources.close()

    def set_deadline(self, seconds: float, *, lasts: bool) -> None:
        """Ends the request ``seconds`` from now. ``lasts``: also while its answer is on the way to the client.

        One that does not last counts only while the answer does not move: see `begin_moving`.
        """
        self.scope.deadline = trio.current_time() + seconds
        self._seconds = seconds
        self._lasts = lasts

    @property
    def has_ended(self) -> bool:
        """Whether it was ended from outside; also by a deadline that has passed while Trio has not looked yet."""
        return self.reason is not None if self._timeouts is not None else self.scope.cancel_called

    @property
    def seconds_left(self) -> float:
        """Until it is ended for being late; infinite where nothing counts now."""
        own = self.scope.deadline - trio.current_time()
        return own if self._timeouts is None else min(own, self._timeouts.left(self))

    def begin_moving(self) -> None:
        """A part of the answer, or of the body, is on its way: until `end_moving` the stall limit counts instead. Both
        may be at once: one that waits for its client is not to be late because the other gets on."""
        self._moving += 1
        if self._moving > 1:
            return
        if self._timeouts is not None:
            self._timeouts.leave(self)
        elif not self._lasts:
            self.scope.deadline = math.inf

    def end_moving(self) -> None:
        """It has come or left: once nothing is on its way, time starts anew."""
        self._moving -= 1
        if self._moving:
            return
        if self._timeouts is not None:
            self._timeouts.enter(self)
        elif not self._lasts:
            self.scope.deadline = trio.current_time() + self._seconds

    def expire(self) -> None:
        self.cancel("deadline")

    def cancel(self, reason: Reason) -> None:
        if not self.scope.cancel_called:  # also True once the deadline has passed
            self.reason = reason
            self.scope.cancel(reason)

    @property
    def ends_by(self) -> Reason | None:
        """What ends the request from outside, as who is ended by it sees it."""
        if self.reason is None and self.has_ended:
            return "deadline"
        return self.reason

    @property
    def ended_by(self) -> Reason | None:
        """What ended the request from outside: the first reason, or the deadline when its scope ran into that."""
        if self.reason is None and self.scope.cancelled_caught:
            return "deadline"
        return self.reason

    @property
    def being_cancelled_by(self) -> Reason | None:
        """Likewise, while it is still on its way out."""
        if self.reason is not None or not self.scope.cancel_called:
            return self.reason
        # A scope that is not its own has no deadline: it was the server around us.
        return "deadline" if self._timeouts is None else "shutdown"


current_request: ContextVar[RequestScope] = ContextVar("current_request")
"""The request that the running task belongs to."""
