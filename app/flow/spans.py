"""Spans: what is done for a request and how long each part takes, as a tree. The vocabulary of all rooms, and of tasks.

Nothing here knows who takes them: that is a `Recorder`, which the server (`app.telemetry.traces`) and a worker process
(`app.compute.traced`) install. Without one, or for a request that is not sampled, `span` gives `NOTHING`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, Protocol

from app.http.request_ids import Trace

type Value = str | int | float | bool
type Attributes = dict[str, Value]
type Kind = Literal["internal", "server", "client", "producer"]

CANCELLED_BY = "sluice.cancelled_by"
ERROR_TYPE = "error.type"
# What ends a part of the work because somebody wants it no more is no error; these are.
_FAULTS = frozenset(("deadline", "shutdown"))
_MOST_SPANS = 256


class Recorder(Protocol):
    """Takes spans that have ended. Its methods may be called from threads, and never wait."""

    def put(self, span: Span) -> None: ...

    def samples(self, trace_id: int, continued: Trace | None) -> bool:
        """Whether the spans of a trace are wanted. continued: the caller's, where it is not a new one."""
        ...

    def canceller(self, error: BaseException) -> str | None:
        """Who cancelled, in a word, such as ``disconnected``; None where ``error`` is no cancellation."""
        ...

    def leave_out(self) -> None:
        """A span is not made, because its tree has as many as it may."""
        ...


class Tree:
    """The spans of one request, by its trace's id, of 128 bits. state: the caller's ``tracestate``.

    Bound: ``most`` of them, the first included; what comes later is left out, and counted."""

    __slots__ = ("_left", "recorder", "state", "trace_id")

    def __init__(self, trace_id: int, recorder: Recorder, most: int = _MOST_SPANS) -> None:
        self.trace_id = trace_id
        self.recorder = recorder
        self.state = b""
        self._left = most - 1

    def takes(self) -> bool:
        """Whether there may be one more."""
        self._left -= 1
        if self._left < 0:
            self.recorder.leave_out()
        return self._left >= 0


class Span:
    """A part of the work, from when it is made to its `end`; as a block, the parent of what is begun within.

    id, parent: of 64 bits. began, ended: nanoseconds of the wall clock. attributes: short, and of no report's contents.
    """

    __slots__ = (
        "_before",
        "_is_open",
        "attributes",
        "began",
        "ended",
        "id",
        "is_error",
        "kind",
        "name",
        "parent",
        "tree",
    )

    def __init__(self, tree: Tree, name: str, parent: int | None, kind: Kind, attributes: Attributes) -> None:
        self.tree = tree
        self.name = name
        self.parent = parent
        self.kind: Kind = kind
        self.attributes = attributes
        self.id = random.getrandbits(64) or 1
        self.is_error = False
        self.began = time.time_ns()
        self.ended = 0
        self._is_open = True

    def __enter__(self) -> Span:
        self._before = _current.get(None)
        _current.set(self)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        _current.set(self._before)
        self.end(error)

    @property
    def traceparent(self) -> str:
        """What names it to whom it calls."""
        return f"00-{self.tree.trace_id:032x}-{self.id:016x}-01"

    def child(self, name: str, attributes: Attributes | None = None, kind: Kind = "internal") -> Span | Nothing:
        """A part of this one, also of one that has ended; it begins now."""
        if not self.tree.takes():
            return NOTHING
        return Span(self.tree, name, self.id, kind, {} if attributes is None else attributes)

    def add(
        self,
        name: str,
        began: int,
        ended: int,
        attributes: Attributes | None = None,
        error: BaseException | None = None,
    ) -> None:
        """A part of this one that is over."""
        part = self.child(name, attributes)
        if isinstance(part, Span):
            part.began, part.ended = began, ended
            part.end(error)

    def say(self, **attributes: Value) -> None:
        """Adds ``attributes``, in whose names ``__`` is a dot."""
        self.attributes.update((name.replace("__", "."), value) for name, value in attributes.items())

    def end(self, error: BaseException | None = None) -> None:
        """It is over; ``error``: by that. Harmless the second time."""
        if self._is_open:
            self._is_open = False
            self.ended = self.ended or time.time_ns()
            if error is not None:
                self._fail(error)
            self.tree.recorder.put(self)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, GeneratorExit | StopAsyncIteration):
            return
        if (canceller := self.tree.recorder.canceller(error)) is not None:
            self.cancelled_by(canceller)
        else:
            self.failed(getattr(error, "name", None) or type(error).__name__)

    def failed(self, kind: str) -> None:
        self.is_error = True
        self.attributes[ERROR_TYPE] = kind

    def cancelled_by(self, canceller: str) -> None:
        self.attributes[CANCELLED_BY] = canceller
        if canceller in _FAULTS:
            self.failed(canceller)


class Nothing:
    """In the place of a span, where nobody records."""

    def __enter__(self) -> Nothing:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, **attributes: Value) -> None:
        pass

    def end(self, error: BaseException | None = None) -> None:
        pass


NOTHING = Nothing()

_recorder: Recorder | None = None
_current: ContextVar[Span | None] = ContextVar("current_span")


@contextmanager
def recording(recorder: Recorder) -> Generator[None]:
    """This process's spans go to ``recorder`` for as long as the block lasts."""
    global _recorder  # noqa: PLW0603 - who records is the process's
    before, _recorder = _recorder, recorder
    try:
        yield
    finally:
        _recorder = before


def current() -> Span | None:
    """The span that runs here; None where nobody records."""
    return None if _recorder is None else _current.get(None)


def span(name: str, attributes: Attributes | None = None, kind: Kind = "internal") -> Span | Nothing:
    """A part of what runs here, as a block; or it is ended by `Span.end`, and then is nothing's parent.

    name: of few values. Those that have many are attributes."""
    parent = None if _recorder is None else _current.get(None)
    return NOTHING if parent is None else parent.child(name, attributes, kind)


def run_within(span: Span | None) -> None:
    """From now on, what this task begins is a part of ``span``: for one that works for others, one after the other."""
    _current.set(span)


def begin_trace(continued: Trace | None) -> tuple[Trace | None, Span | None]:
    """The trace that a request belongs to, the caller's or a new one; and its span, where it is sampled.

    Without a recorder the caller's is passed on, and there is no new one."""
    recorder = _recorder
    if recorder is None:
        return continued, None
    if continued is None:
        # An id must not be all zeros: once in 2⁶⁴ times it is, and others ignore it.
        ids, parent = random.randbytes(24), None  # noqa: S311 - no secret, and the system's would be a system call
        trace_id = int.from_bytes(ids[:16])
        if not recorder.samples(trace_id, None):
            return Trace(f"00-{ids.hex('-', -16)}-00"), None
    else:
        trace_id, parent = int(continued.trace_id, 16), int(continued.parent_id, 16)
        if not recorder.samples(trace_id, continued):
            return Trace(f"{continued.traceparent[:-2]}00", continued.parent_id), None
    begun = Span(Tree(trace_id, recorder), "", parent, "server", {})
    return Trace(begun.traceparent, "" if continued is None else continued.parent_id), begun
