"""The outermost layer: whatever happens within a request comes out here, as one answer and one line in the log.

Request ids, traces, deadlines, the drain, the outcome of a disconnect, and errors are the same for every route,
because they are handled here and not in the routes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import structlog
import trio

from app.errors import BACKING_OFF, DeadlineExceeded, ShuttingDown, SluiceError
from app.flow.drain import DrainGate
from app.flow.request import RequestScope, current_request
from app.http.deadlines import parse_deadline
from app.http.problems import problem
from app.http.request_ids import Trace, continue_trace, request_id
from app.web.asgi import AsgiApp, Message, Receive, Scope, Send, content_length, header
from app.web.faults import as_sluice_error, real_errors

_log = structlog.get_logger()

# How long the answer to a request that was ended from outside may take to leave.
_LAST_WORDS_SECONDS = 2.0
_CLIENT_CLOSED_REQUEST = 499

type Outcome = Literal["ok", "client_error", "error", "disconnected", "deadline", "overloaded", "shutdown"]


class Boundary:
    """Wraps an ASGI application.

    request_deadline: seconds that a request without ``Sluice-Deadline`` may take until its answer begins, and the
    most that one with it may ask for.
    """

    def __init__(self, app: AsgiApp, gate: DrainGate, request_deadline: float) -> None:
        self._app = app
        self._gate = gate
        self._request_deadline = request_deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # A WebSocket that is closed before it is accepted is answered with 403.
            await send({"type": "websocket.close", "code": 1000})
            return
        trace = continue_trace(header(scope, b"traceparent"))
        request = RequestScope(
            id=request_id(header(scope, b"x-request-id")), trace_id=trace.trace_id if trace else None
        )
        exchange = _Exchange(scope, send, request, trace, self._gate)
        token = current_request.set(request)
        try:
            with self._gate.running(request), request.resources:
                await self._serve(exchange, receive)
        finally:
            current_request.reset(token)

    async def _serve(self, exchange: _Exchange, receive: Receive) -> None:
        error: SluiceError | None = None
        ended_outside = True
        try:
            error = await self._run(exchange, receive)
            if error is not None and not exchange.started:
                with trio.move_on_after(_LAST_WORDS_SECONDS, shield=True):
                    await exchange.send_problem(error)
            ended_outside = False
        finally:
            # Where this is reached by a cancellation, that came from the server around us.
            exchange.log("shutdown" if ended_outside else _outcome(exchange, error))

    async def _run(self, exchange: _Exchange, receive: Receive) -> SluiceError | None:
        """Runs the application; what it has to answer for, or None.

        *Cancellation*: from outside is passed on, unless a real error came with it, which is not lost.
        """
        request = exchange.request
        try:
            self._set_deadline(exchange)
            with request.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_watch, receive, exchange)
                    await self._app(exchange.scope, receive, exchange.send)
                    nursery.cancel_scope.cancel()
        except BaseException as raised:
            errors = real_errors(raised)
            if not errors or not all(isinstance(error, Exception) for error in errors):
                raise
            error = as_sluice_error(errors[0], exchange.scope["path"])
            _log_error(error, raised)
            return error
        match request.ended_by:
            case "deadline":
                return DeadlineExceeded("the deadline of the request has passed")
            case "shutdown":
                return ShuttingDown("the server is shutting down", retry_after=1)
            case "disconnected" | None:
                return None

    def _set_deadline(self, exchange: _Exchange) -> None:
        asked = parse_deadline(header(exchange.scope, b"sluice-deadline"))
        exchange.request.set_deadline(
            min(asked or self._request_deadline, self._request_deadline),
            # A transfer that keeps moving outlives the server's limit, but not what its client asked for.
            lasts=asked is not None and asked <= self._request_deadline,
        )


@dataclass
class _Exchange:
    """One request and what has been answered to it so far."""

    scope: Scope
    _send: Send
    request: RequestScope
    trace: Trace | None
    gate: DrainGate
    status: int | None = None
    started: bool = False
    finishing: bool = False
    finished: bool = False
    body_bytes: int = 0

    def __post_init__(self) -> None:
        self._began = trio.current_time()
        self._first_byte: float | None = None
        self._announced: int | None = None
        self._head: Message | None = None

    async def send(self, message: Message) -> None:
        """ASGI's send, with what every answer carries."""
        if message["type"] == "http.response.start":
            # Held back until there is something to send after it: up to then a deadline can still be told.
            self._head = message
            return
        if self._head is not None:
            if self.request.scope.cancel_called:  # which looks at the clock; Trio's own loop may not have yet
                await trio.lowlevel.checkpoint()
            await self._send_head(self._head)
        if message["type"] == "http.response.body":
            if self.scope["method"] != "HEAD":  # whose body the server drops
                self.body_bytes += len(message.get("body", b""))
            # A client that has all that was announced may leave before we have said that this was all.
            self.finishing = not message.get("more_body", False) or self.body_bytes == self._announced
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if last and not message.get("body"):
            # Only the end is left to say. Hypercorn, cancelled there, would leave the connection open and deaf.
            with trio.move_on_after(_LAST_WORDS_SECONDS, shield=True):
                await self._send(message)
                self.finished = True
            return
        with self.request.moving():
            await self._send(message)
        self.finished = last

    async def _send_head(self, head: Message) -> None:
        self._head = None
        self.status = head["status"]
        self.started = True
        self._first_byte = trio.current_time()
        self._announced = content_length(head["headers"])
        head["headers"] = [*head["headers"], *self._headers()]
        with self.request.moving():
            await self._send(head)

    async def send_problem(self, error: SluiceError) -> None:
        document = problem(error, self.request.id)
        headers = [*document.headers, ("content-length", str(len(document.body)))]
        await self.send(
            {
                "type": "http.response.start",
                "status": document.status,
                "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
            }
        )
        await self.send({"type": "http.response.body", "body": document.body, "more_body": False})

    def log(self, outcome: Outcome) -> None:
        now = trio.current_time()
        _log.info(
            "request",
            method=self.scope["method"],
            path=self.scope["path"],
            status=_CLIENT_CLOSED_REQUEST if outcome == "disconnected" else self.status,
            outcome=outcome,
            ms=round((now - self._began) * 1000, 3),
            first_byte_ms=None if self._first_byte is None else round((self._first_byte - self._began) * 1000, 3),
            bytes=self.body_bytes,
            client=(self.scope.get("client") or [None])[0],
        )

    def _headers(self) -> Iterable[tuple[bytes, bytes]]:
        yield b"x-request-id", self.request.id.encode()
        if self.trace is not None:
            yield b"traceparent", self.trace.traceparent.encode()
        ending = self.gate.draining or self.request.reason == "shutdown"
        if ending and self.scope["http_version"].startswith("1"):
            yield b"connection", b"close"


async def _watch(receive: Receive, exchange: _Exchange) -> None:
    """Cancels the request when its client goes away. No route takes a body: one that comes is read and dropped."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            if not exchange.finishing:
                exchange.request.cancel("disconnected")
            return


def _outcome(exchange: _Exchange, error: SluiceError | None) -> Outcome:
    if exchange.finished:
        return _outcome_of_status(exchange.status or 0, error)
    return exchange.request.ended_by or "error"


def _outcome_of_status(status: int, error: SluiceError | None) -> Outcome:
    match error:
        case DeadlineExceeded():
            return "deadline"
        case ShuttingDown():
            return "shutdown"
        case _ if status >= 500:
            return "error"
        case _:
            return "client_error" if status >= 400 else "ok"


def _log_error(error: SluiceError, raised: BaseException) -> None:
    """An error that nobody foresaw is logged with its traceback, a foreseen one of ours in a line."""
    if type(error) is SluiceError:
        _log.error("unexpected error", exc_info=raised)
    elif error.status >= 500 and error.internal != BACKING_OFF:  # which the pool has logged, once a try
        _log.error(error.title.lower(), error=error.name, detail=error.detail, reason=error.internal)
