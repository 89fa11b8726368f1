"""The outermost layer: whatever happens within a request comes out here, as one answer and one line in the log.

Request ids, traces, deadlines, limits, the drain, the outcome of a disconnect, and errors are the same for every route,
because they are handled here and not in the routes.
"""

from __future__ import annotations

import math

import structlog
import trio

from app.errors import BACKING_OFF, DeadlineExceeded, Overloaded, ShuttingDown, SluiceError
from app.flow.drain import DrainGate
from app.flow.request import RequestScope, current_request
from app.flow.spans import run_within
from app.flow.timeouts import Timeouts
from app.http.deadlines import parse_deadline
from app.settings import ServerSettings
from app.web.exchange import Exchange
from app.web.faults import as_sluice_error, real_errors
from app.web.socket_exchange import SocketExchange
from app.wire.asgi import AsgiApp, Receive, Scope, Send
from app.wire.exchange import Disconnected
from app.wire.refusal import no_answer

_log = structlog.get_logger()

# How long the answer to a request that was ended from outside may take to leave.
_LAST_WORDS_SECONDS = 2.0


class Boundary:
    """Wraps an ASGI application."""

    def __init__(self, app: AsgiApp, gate: DrainGate, settings: ServerSettings) -> None:
        self._app = app
        self._gate = gate
        self._settings = settings
        self._timeouts: Timeouts[RequestScope] = Timeouts(settings.request_deadline, RequestScope.expire)

    async def run(self) -> None:
        """Ends requests that are late, for as long as it runs."""
        await self._timeouts.run()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = SocketExchange if scope["type"] == "websocket" else Exchange
        exchange = kind(scope, receive, send, self._gate, self._settings, self._timeouts)
        request = exchange.request
        token = current_request.set(request)
        if exchange.span is not None:
            run_within(exchange.span)
        self._gate.enter(request)
        error: SluiceError | None = None
        ended_outside = True
        try:
            try:
                if exchange.peer is not None:
                    exchange.peer.when_gone(exchange.peer_left)
                if exchange.borrows:
                    self._timeouts.enter(request, exchange.came)
                    await self._app(scope, exchange.receive, exchange.send)
                else:
                    self._set_deadline(exchange)
                    with request.scope:
                        await self._run_watched(exchange)
            except BaseException as raised:  # noqa: BLE001 - what is not ours is raised anew
                error = _answer_for(raised, exchange)
            else:
                if request.reason is not None or not (exchange.borrows and exchange.started):
                    error = _verdict(exchange)
            if error is not None:
                with trio.move_on_after(_LAST_WORDS_SECONDS, shield=True):
                    if not exchange.begun:
                        await exchange.send_problem(error)
                    elif isinstance(exchange, SocketExchange) and not exchange.finishing:
                        await exchange.say_goodbye()
            ended_outside = False
        finally:
            request.close()
            self._gate.leave(request)
            # Where this is reached by a cancellation, that came from the server around us.
            outcome = "shutdown" if ended_outside else exchange.outcome(error)
            exchange.log(outcome)
            if exchange.span is not None:
                run_within(None)  # the next request of the connection is not a part of this one
                exchange.end_span(outcome, error)
            current_request.reset(token)

    async def _run_watched(self, exchange: Exchange) -> None:
        if exchange.peer is not None:
            await self._app(exchange.scope, exchange.receive, exchange.send)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.watch_peer)
            await self._app(exchange.scope, exchange.receive, exchange.send)
            nursery.cancel_scope.cancel()

    def _set_deadline(self, exchange: Exchange) -> None:
        asked = parse_deadline(exchange.given.get(b"sluice-deadline"))
        most = math.inf if isinstance(exchange, SocketExchange) else self._settings.request_deadline
        exchange.request.set_deadline(
            min(asked or most, most),
            # A transfer that keeps moving outlives the server's limit, but not what its client asked for.
            lasts=asked is not None and asked <= most,
        )


def _answer_for(raised: BaseException, exchange: Exchange) -> SluiceError | None:
    """What the application's end by ``raised`` has to be answered with.

    Raises it anew where it is not ours: a cancellation from outside is passed on, unless a real error came with it,
    which is not lost.
    """
    errors = real_errors(raised)
    if not all(isinstance(error, Exception) for error in errors):
        raise raised
    if errors and all(isinstance(error, Disconnected) for error in errors):
        exchange.peer_vanished()
        return None
    if errors:
        error = as_sluice_error(errors[0], exchange.scope["path"])
        _log_error(error, raised)
        return error
    if not (exchange.borrows and exchange.request.reason is not None):
        raise raised
    return _verdict(exchange)


def _verdict(exchange: Exchange) -> SluiceError | None:
    """What a request that raised nothing has to answer for."""
    match exchange.request.ended_by:
        case "deadline":
            return DeadlineExceeded("the deadline of the request has passed")
        case "shutdown":
            return ShuttingDown("the server is shutting down", retry_after=1)
        case None if not exchange.started:
            _log.error("no answer")
            return no_answer()
        case "disconnected" | None:
            return None


def _log_error(error: SluiceError, raised: BaseException) -> None:
    """An error that nobody foresaw is logged with its traceback, a foreseen one of ours in a line."""
    if type(error) is SluiceError:
        _log.error("unexpected error", exc_info=raised)
    elif error.status >= 500 and error.internal != BACKING_OFF:  # which the pool has logged, once a try
        # What load, or a client's own limit, has decided is no fault of ours.
        expected = isinstance(error, DeadlineExceeded | Overloaded | ShuttingDown)
        tell = _log.info if expected else _log.error
        tell(error.title.lower(), error=error.name, detail=error.detail, reason=error.internal)
