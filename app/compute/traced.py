"""The spans of one call in a worker process, on their way back to the server, which knows what they belong to."""

from __future__ import annotations

import os
from collections.abc import Sequence

from app.compute.messages import MOST_SPANS, GivenSpan
from app.compute.tasks import Cancelled
from app.flow.spans import Span, Tree
from app.http.request_ids import Trace

_MOST_ATTRIBUTES = 16
_MOST_TEXT = 256


class CallSpans:
    """`app.flow.spans.Recorder` of one call. Bound: `MOST_SPANS`, each of `_MOST_ATTRIBUTES` short attributes."""

    def __init__(self) -> None:
        self._ended: list[Span] = []

    def begin(self, name: str) -> Span:
        """The run itself, which the others are parts of; its parent is the server's to know."""
        return Span(Tree(0, self, MOST_SPANS), name, None, "internal", {"process.pid": os.getpid()})

    def put(self, span: Span) -> None:
        self._ended.append(span)

    def samples(self, trace_id: int, continued: Trace | None) -> bool:
        return False

    def canceller(self, error: BaseException) -> str | None:
        return "" if isinstance(error, Cancelled) else None

    def leave_out(self) -> None:
        pass

    def told(self) -> Sequence[GivenSpan]:
        return [_told(span) for span in self._ended]


def _told(span: Span) -> GivenSpan:
    said = {
        _short(name): value if isinstance(value, int | float) else _short(value)
        for name, value in [*span.attributes.items()][:_MOST_ATTRIBUTES]
        if not isinstance(value, int) or abs(value) < 2**63
    }
    return GivenSpan(span.id, span.parent, _short(span.name), span.began, span.ended, said, span.is_error)


def _short(text: str) -> str:
    """(What has lone surrogates has no UTF-8.)"""
    return str(text)[:_MOST_TEXT].encode("utf-8", "replace").decode()
