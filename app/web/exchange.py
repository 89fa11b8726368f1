"""One request and what has been answered to it so far, whatever protocol it came by."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import trio

from app.errors import BodyTooLarge, SluiceError
from app.flow.drain import DrainGate
from app.flow.request import RequestScope
from app.flow.spans import begin_trace
from app.flow.timeouts import Timeouts
from app.http.problems import Problem, problem
from app.http.request_ids import continue_trace, passed_on_state, request_id
from app.settings import ServerSettings
from app.telemetry import logs
from app.telemetry.metrics import UNMATCHED
from app.telemetry.outcomes import EndedRequest, Outcome, outcome_of
from app.web.request_span import end_request_span
from app.wire.asgi import NOTHING, PEER, ROUTE, WHOLE, ZERO_COPY, Message, Peer, Receive, Scope, Send
from app.wire.exchange import Disconnected

_CLIENT_CLOSED_REQUEST = 499
# How long the end of an answer, where only that is left, may take to leave.
_LAST_WORDS_SECONDS = 2.0
_READ_BY_US = frozenset((b"x-request-id", b"traceparent", b"tracestate", b"sluice-deadline", b"content-length"))


class Exchange:
    """An HTTP request.

    given: the values of those of its fields that every request may have, several of one name joined by a comma.
    came: when, on ``clock``. span: where it is traced and sampled. started: its answer has begun. finishing: all of it
    is on its way. finished: it has been sent.
    """

    __slots__ = (
        "_clock",
        "_first_byte",
        "_gate",
        "_has_all",
        "_head",
        "_headers_sent",
        "_limit",
        "_receive",
        "_send",
        "_trailers_follow",
        "body_bytes",
        "borrows",
        "came",
        "finished",
        "finishing",
        "given",
        "peer",
        "request",
        "scope",
        "span",
        "started",
        "status",
        "taken",
        "trace",
        "whole",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        gate: DrainGate,
        settings: ServerSettings,
        timeouts: Timeouts[RequestScope],
    ) -> None:
        given: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in _READ_BY_US:
                given[name] = b"%b, %b" % (given[name], value) if name in given else value
        self.given = given
        self.scope = scope
        self.peer: Peer | None
        self.peer = peer = scope["extensions"].get(PEER) if "extensions" in scope else None
        continued = continue_trace(given[b"traceparent"]) if b"traceparent" in given else None
        self.trace, self.span = trace, _ = begin_trace(continued)
        # The peer's own scope, where it has one and no deadline has to be set on it: nothing is made for this request.
        borrowed = None if peer is None or b"sluice-deadline" in given else peer.scope
        self.borrows = borrowed is not None
        self.request = RequestScope(
            request_id(given.get(b"x-request-id")),
            None if trace is None else trace.trace_id,
            borrowed,
            None if borrowed is None else timeouts,
        )
        if trace is not None:
            self.request.traceparent = trace.traceparent
            if continued is not None and b"tracestate" in given:
                self.request.tracestate = state = passed_on_state(given[b"tracestate"])
                if self.span is not None and state is not None:
                    self.span.tree.state = state
        self.status: int | None = None
        self.started: bool = False
        self.finishing: bool = False
        self.finished: bool = False
        self.body_bytes: int = 0
        self.taken: int = 0
        self.whole = trio.Event() if self.peer is None else None
        self._receive = receive
        self._send = send
        self._gate = gate
        self._limit = settings.max_upload
        self._clock = timeouts.now
        self.came = timeouts.now()
        self._first_byte: float | None = None
        self._headers_sent: list[tuple[bytes, bytes]] = []
        self._head: Message | None = None
        self._has_all = False
        self._trailers_follow = False

    def peer_left(self) -> None:
        # A client that has all that was announced may leave before we have said that this was all.
        if not self.finishing:
            self.request.cancel("disconnected")

    def peer_vanished(self) -> None:
        """The server found nobody to send to, before it told us: by then all may have been sent."""
        if self.finishing:
            self.finished = True
        else:
            self.request.reason = self.request.reason or "disconnected"

    async def watch_peer(self) -> None:
        """Asks ``receive``, for servers that tell of a disconnect in no other way: once the body has been taken."""
        if self.whole is not None and self._may_have_body:
            await self.whole.wait()
        while (await self._receive())["type"] not in {"http.disconnect", "websocket.disconnect"}:
            pass
        self.peer_left()

    @property
    def begun(self) -> bool:
        """Whether some of its answer may have been sent. The server holds the head back, and may refuse it yet."""
        return self.started if self.peer is None else self.peer.started

    # -- in ------------------------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """ASGI's receive. *Errors*: BodyTooLarge."""
        announced = self.given.get(b"content-length", b"")
        if announced.isdigit() and int(announced) > self._limit:
            raise self._too_large()
        if self._has_all:
            return await self._receive()
        if self.whole is not None and not self._may_have_body:  # then the server is `watch_peer`'s to ask
            self._has_all = True
            return {"type": "http.request", "body": b"", "more_body": False}
        # While we wait for the client, the stall limit counts; then time starts anew.
        self.request.begin_moving()
        try:
            message = await self._receive()
        finally:
            self.request.end_moving()
        self._has_all = not message.get("more_body", False)
        if message["type"] == "http.request":
            self.taken += len(message.get("body", b""))
            if self.taken > self._limit:
                raise self._too_large()
            if self.whole is not None and self._has_all:
                self.whole.set()
        return message

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body is larger than {self._limit} bytes")

    @property
    def _may_have_body(self) -> bool:
        if (length := self.given.get(b"content-length")) is not None:
            return length != b"0"
        if self.scope["http_version"].startswith("1"):
            return any(name == b"transfer-encoding" for name, _ in self.scope["headers"])
        return self.scope["method"] not in {"GET", "HEAD", "OPTIONS"}  # HTTP/2 says so only by ending the stream

    # -- out -----------------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> Awaitable[None]:
        """ASGI's send, with what every answer carries."""
        if message["type"] != WHOLE:
            return self._send_part(message)
        request = self.request
        ended = request.reason is not None if self.borrows else request.has_ended
        return self._send_late(message) if ended else self._send_whole(message)

    async def _send_part(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            # Held back until there is something to send after it: up to then a deadline can still be told.
            self._head = message
            return
        request = self.request
        head, self._head = self._head, None
        if head is not None:
            if request.has_ended:
                await trio.lowlevel.checkpoint()
            self._complete(head)
            self._begin(head["status"])
            request.begin_moving()
            await self._send(head)
        last = not message.get("more_body", False) and not self._trailers_follow
        if kind == "http.response.body":
            size = len(message.get("body", b""))
        elif kind == ZERO_COPY:
            size = int(message["count"])
        else:  # trailers
            size, last = 0, not message.get("more_trailers", False)
        # Of a HEAD the server drops the body; what the kernel sends counts when it is sent.
        total: int = self.body_bytes + (0 if self.scope["method"] == "HEAD" else size)
        if kind != ZERO_COPY:
            self.body_bytes = total
        whole = last or total == self._length()
        self.finishing = whole and self.peer is None  # a peer of ours tells only while it has not got all of it
        if last and not size and head is None:
            # Only the end is left to say.
            with trio.move_on_after(_LAST_WORDS_SECONDS, shield=True):
                await self._send(message)
                self.finished = True
            return
        if head is None:
            request.begin_moving()
        await self._send(message)
        self.body_bytes = total
        self.finishing = whole
        self.finished = last
        if not last:
            request.end_moving()

    async def _send_late(self, message: Message) -> None:
        """Of a request that was ended, unless this is the answer that says so."""
        await trio.lowlevel.checkpoint()
        await self._send_whole(message)

    def _send_whole(self, message: Message) -> Awaitable[None]:
        scope, request = self.scope, self.request
        self.body_bytes = 0 if scope["method"] == "HEAD" else len(message["body"])
        if WHOLE in scope["extensions"]:
            own, parent = b"x-request-id: %b\r\n" % request.id.encode(), request.traceparent
            message["own"] = own if parent is None else b"%btraceparent: %b\r\n" % (own, parent.encode())
            message["close"] = self._gate.draining or request.reason is not None
            self.status, self.started, self._first_byte = message["status"], True, self._clock()
            sending = self._send(message)
            if sending is NOTHING:
                self.finished = True
                return NOTHING
        else:
            self._complete(message)
            self._begin(message["status"])
            sending = self._send_as_parts(message)
        self.finishing = self.peer is None
        request.begin_moving()
        return self._finish_after(sending)

    async def _finish_after(self, sending: Awaitable[None]) -> None:
        await sending
        self.finished = True

    async def _send_as_parts(self, message: Message) -> None:
        headers, status, body = message["headers"], message["status"], message["body"]
        if self._length() is None and status not in {204, 304}:
            headers = [*headers, (b"content-length", b"%d" % len(body))]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def _begin(self, status: int) -> None:
        self.status = status
        self.started = True
        self._first_byte = self._clock()

    def _complete(self, head: Message) -> None:
        self._headers_sent = head["headers"] = [*head.get("headers", ()), *self._headers()]
        self._trailers_follow = head.get("trailers", False)

    async def send_problem(self, error: SluiceError) -> None:
        document = problem(error, self.request.id)
        message = {"type": WHOLE, "status": document.status, "headers": problem_fields(document), "body": document.body}
        with suppress(Disconnected):
            await self.send(message)

    def _length(self) -> int | None:
        given = next((value for name, value in self._headers_sent if name.lower() == b"content-length"), b"")
        return int(given) if given.isdigit() else None

    def _headers(self) -> list[tuple[bytes, bytes]]:
        headers = self._own()
        # A request that was cancelled is its connection's last.
        closes = self._gate.draining or self.request.reason is not None
        if closes and self.scope["http_version"].startswith("1"):
            headers.append((b"connection", b"close"))
        return headers

    def _own(self) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-request-id", self.request.id.encode())]
        if self.request.traceparent is not None:
            headers.append((b"traceparent", self.request.traceparent.encode()))
        return headers

    # -- afterwards ----------------------------------------------------------------------------------------------------

    def log(self, outcome: Outcome) -> None:
        """In the log and the metrics."""
        scope, request, trace, came, first_byte = self.scope, self.request, self.trace, self.came, self._first_byte
        client = scope.get("client")
        ended = EndedRequest(
            scope.get("method", "GET"),
            scope["path"],
            scope.get(ROUTE, UNMATCHED),
            _CLIENT_CLOSED_REQUEST if outcome == "disconnected" else self.status,
            outcome,
            # To the microsecond. (`round` takes several times as long.)
            int((self._clock() - came) * 1_000_000) / 1000,
            None if first_byte is None else int((first_byte - came) * 1_000_000) / 1000,
            self.body_bytes + request.sent_now,
            client[0] if client else None,
            request.id,
            datetime.now(UTC),
            "request",
            "info",
            self.taken,
            request.trace_id,
            trace is not None and trace.is_sampled,
        )
        logs.request_ended(ended)

    def end_span(self, outcome: Outcome, error: SluiceError | None) -> None:
        """Of one that has a span. error: as for `outcome`."""
        if self.span is not None:
            end_request_span(
                self.span,
                self.scope,
                method=self.scope.get("method", "GET"),
                status=self.status,
                outcome=outcome,
                request_id=self.request.id,
                error=error,
                cancelled_by=self.request.ended_by or ("shutdown" if outcome == "shutdown" else None),
            )

    @property
    def age(self) -> float:
        """Seconds since it came."""
        return self._clock() - self.came

    @property
    def title(self) -> str:
        """What it asks for, without its query."""
        return f"{self.scope.get('method', 'GET')} {self.scope['path']}"

    def outcome(self, error: SluiceError | None) -> Outcome:
        """How it ended; ``error``: what it was answered with, if that is what it was."""
        if not self.finished:
            # What came late was not what the route reads: its answer is cut.
            late = self.request.ended_by is None and error is not None and error.status < 500
            return "client_error" if late else self.request.ended_by or "error"
        status = self.status or 0
        return "ok" if error is None and status < 400 else outcome_of(status, error)


def problem_fields(document: Problem) -> list[tuple[bytes, Any]]:
    fields = [*document.headers, ("content-length", str(len(document.body)))]
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
