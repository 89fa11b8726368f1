"""The spans of one call of the engine: all of it, the wait in its queue, and what its worker did and when."""

from __future__ import annotations

import time
from collections.abc import Sequence

from app.compute.messages import GivenSpan
from app.errors import DeadlineExceeded, ShuttingDown, SluiceError, TaskCancelled
from app.flow.spans import CANCELLED_BY, NOTHING, Nothing, Span


class RunSpans:
    """parent: what the call is a part of. task: its name, where that is known.

    Bound: what a worker sends (`app.compute.messages.MOST_SPANS`), and what the trace has room for.
    """

    def __init__(self, parent: Span, task: str | None) -> None:
        self._span = parent.child("compute", {} if task is None else {"sluice.task": task})
        self._came = time.time_ns()
        self._began: int | None = None
        self._given: Sequence[GivenSpan] = ()

    def begin(self) -> None:
        """A worker is at it; maybe not for the first time."""
        self._began = time.time_ns()

    def take(self, given: Sequence[GivenSpan]) -> None:
        self._given = given

    def end(self, error: SluiceError | None, left_by: BaseException | None) -> None:
        """error: what it came to. left_by: what ended the wait for it."""
        span = self._span
        if isinstance(span, Nothing):
            return
        span.add("queue wait", self._came, self._began or time.time_ns())
        canceller = self._canceller(span, error, left_by)
        for given in self._given:
            self._add(span, given, canceller)
        if error is not None and canceller is None:
            span.failed(error.name)
        if canceller is not None:
            span.cancelled_by(canceller)
        span.end()

    def _canceller(self, span: Span, error: SluiceError | None, left_by: BaseException | None) -> str | None:
        if left_by is not None and (canceller := span.tree.recorder.canceller(left_by)) is not None:
            return canceller
        match error:
            case TaskCancelled():  # by name: whoever waits for it still does
                return "delete"
            case DeadlineExceeded():
                return "deadline"
            case ShuttingDown():
                return "shutdown"
            case _:
                return None

    def _add(self, span: Span, given: GivenSpan, canceller: str | None) -> None:
        part = span.child(given.name, dict(given.attributes))
        if part is NOTHING or isinstance(part, Nothing):
            return
        part.id, part.began, part.ended, part.is_error = given.id, given.began, given.ended, given.is_error
        if given.parent is not None:
            part.parent = given.parent
        if canceller is not None and (CANCELLED_BY in given.attributes or given.parent is None):
            part.attributes.pop("error.type", None)
            part.is_error = False
            part.cancelled_by(canceller)
        part.end()
