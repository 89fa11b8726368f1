"""What a client is told where no application tells it: a problem document with a request id of its own."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, cast

import structlog

from app.errors import SluiceError
from app.flow.spans import begin_trace
from app.http.problems import problem
from app.telemetry.metrics import metrics
from app.telemetry.outcomes import outcome_of
from app.wire.exchange import Disconnected
from app.wire.fields import Field
from app.wire.http1 import RequestHead
from app.wire.response import Response

_log = structlog.get_logger()

NO_REQUEST = RequestHead("GET", b"/", "/", b"", "1.1", [], None, False, False, False, None, False)
"""What an answer answers to where nothing was asked."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A whole answer; fields: without its length."""

    status: int
    fields: list[Field]
    body: bytes

    def as_http1(self, head: RequestHead | None = None) -> bytes:
        """As an answer to ``head``, or to what is no request, after which the connection ends."""
        response = Response(head or NO_REQUEST)
        start = response.begin(self.status, self.fields, size=len(self.body), close=True, trailers=False)
        return start + b"".join(response.body(self.body))


def refusal(error: SluiceError, request_id: str | None = None) -> Refusal:
    """``error`` as an answer."""
    request_id = request_id or secrets.token_hex(8)
    document = problem(error, request_id)
    fields = [(name.encode(), value.encode("latin-1")) for name, value in document.headers]
    fields.append((b"x-request-id", request_id.encode()))
    return Refusal(document.status, fields, document.body)


def refuse(error: SluiceError, client: Any, *, unseen: bool = False) -> Refusal:
    """``error`` as an answer, and as a line of the log. client: its address, as ASGI has it. unseen: whether no
    application has got to see the request, and counted it."""
    request_id = secrets.token_hex(8)
    address = client[0] if client else None
    said = {"status": error.status, "error": error.name, "detail": error.detail}
    if unseen:
        said |= _tell(error, address, request_id)
    _log.info("request refused", **said, client=address, request_id=request_id)
    return refusal(error, request_id)


def _tell(error: SluiceError, address: str | None, request_id: str) -> dict[str, str]:
    """Metrics and traces, as an application would; what the log is to say of that."""
    outcome = outcome_of(error.status, error)
    metrics.requests.refused(error)
    trace, span = begin_trace(None)  # a caller's is not known
    if span is not None:
        span.name = "HTTP"
        span.say(
            http__request__method="_OTHER",
            http__response__status_code=error.status,
            sluice__request_id=request_id,
            sluice__outcome=outcome,
        )
        if address is not None:
            span.say(client__address=address)
        if error.status >= 500:
            span.failed(error.name)
        span.end()
    return {"outcome": outcome} if trace is None else {"outcome": outcome, "trace_id": trace.trace_id}


def no_answer() -> SluiceError:
    return SluiceError("The application did not answer.")


def foreseen(raised: Exception) -> SluiceError | None:
    """What an application tells its client by raising; None where it foresaw nothing, which the log is told then.

    A group of one counts as that one: a nursery wraps whatever is raised in it.
    """
    error: Any = raised
    while isinstance(error, ExceptionGroup) and len(cast("Any", error).exceptions) == 1:
        error = cast("Any", error).exceptions[0]
    if isinstance(error, SluiceError):
        return error
    if not isinstance(error, Disconnected):  # nobody is left to be told
        _log.error("application failed", exc_info=raised)
    return None
