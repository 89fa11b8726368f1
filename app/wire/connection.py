"""The HTTP/1.1 connection: one task, one request after the other, answers in order (RFC 9112 9)."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager

import trio

from app.errors import BadRequest, RequestTimeout, SluiceError
from app.flow.timeouts import Timeouts
from app.settings import ServerSettings
from app.telemetry import families as f
from app.telemetry.metrics import Reading
from app.wire.asgi import AsgiApp, Scope
from app.wire.exchange import SPARE_BYTES, Exchange, said_by
from app.wire.http1 import Inbound, RequestHead
from app.wire.readiness import Readiness
from app.wire.refusal import foreseen, no_answer, refuse
from app.wire.transport import Gone, Stalled, Transport

# After the last answer what still comes is read and dropped, so that the answer is not lost by a reset (RFC 9112 9.6).
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 16 * 1024 * 1024


class Connections:
    """What the connections of one process share, and their end.

    Bound: ``settings.max_connections``; one past it is refused with 503.
    """

    def __init__(self, settings: ServerSettings, limit: int) -> None:
        self.settings = settings
        self.limit = limit
        self.readiness = Readiness()
        self.closing = False
        self._handshakes: set[trio.CancelScope] = set()
        self.count = 0
        self.open: set[Connection] = set()
        # Of the connections that speak another protocol, and which.
        self.others: dict[trio.CancelScope, str] = {}
        # Those that wait for a request, and, until they wait again, some that do not any more.
        self.idle: Timeouts[Connection] = Timeouts(settings.idle_timeout, Connection.stop)
        self.heads: Timeouts[Connection] = Timeouts(settings.header_timeout, Connection.give_up_head)

    @contextmanager
    def shaking_hands(self, scope: trio.CancelScope) -> Generator[None]:
        """A connection that is not yet one of ``open``: ``scope`` is cancelled by `finish`."""
        self._handshakes.add(scope)
        if self.closing:
            scope.cancel()
        try:
            yield
        finally:
            self._handshakes.remove(scope)

    @contextmanager
    def counted(self) -> Generator[bool]:
        """One more connection, of whichever protocol; False where there are too many already."""
        self.count += 1
        try:
            yield self.count <= self.limit
        finally:
            self.count -= 1

    def measures(self) -> Iterable[Reading]:
        yield f.CONNECTIONS_MAX, (), self.limit
        idle = sum(connection.waits for connection in self.open)
        handed_over = list(self.others.values())
        yield f.CONNECTIONS, ("http/1.1", "idle"), idle
        yield f.CONNECTIONS, ("http/1.1", "active"), len(self.open) - idle
        yield f.CONNECTIONS, ("tls", "handshake"), len(self._handshakes)
        for protocol in ("http/2", "websocket"):
            yield f.CONNECTIONS, (protocol, "open"), handed_over.count(protocol)

    async def run(self) -> None:
        """Watches for as long as it runs."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.readiness.run)
            nursery.start_soon(self.idle.run)
            nursery.start_soon(self.heads.run)

    def finish(self) -> None:
        """Idle connections end now, the others after their answer."""
        self.closing = True
        for connection in self.open:
            connection.stop()
        for scope in self._handshakes:
            scope.cancel()

    def cut_others(self) -> None:
        """Connections of other protocols end now."""
        for scope in self.others:
            scope.cancel()


class Connection:
    """One client.

    base: the members of each request's ASGI scope that the connection says. mark_request: called for each.
    """

    __slots__ = (
        "_answering",
        "_app",
        "_base",
        "_head",
        "_head_bytes",
        "_inbound",
        "_lingers",
        "_mark_request",
        "_refused",
        "_said",
        "_scope",
        "_shared",
        "_transport",
        "_waiting",
    )

    def __init__(
        self,
        app: AsgiApp,
        base: Scope,
        transport: Transport,
        shared: Connections,
        mark_request: Callable[[], None] | None = None,
    ) -> None:
        self._app = app
        self._base = base
        self._transport = transport
        self._shared = shared
        self._mark_request = mark_request
        self._inbound = Inbound(shared.settings.max_head_bytes, shared.settings.max_head_fields)
        self._waiting = False
        self._lingers = False
        self._refused: SluiceError | None = None
        self._answering: RequestHead | None = None
        self._scope = trio.CancelScope()
        # Clients ask the same again and again, to the byte: the last head that stood by itself, and what it says.
        self._head_bytes = b""
        self._head: RequestHead | None = None
        self._said: Scope = {}  # by the head that came last

    async def run(self) -> bytes | None:
        """Serves until either side ends it. Bytes: the client speaks HTTP/2, or wants a WebSocket, and these are what
        it has sent so far; the transport is open then, else closed.

        *Cancellation*: closes. *Errors*: none but the application's own, after which it is closed.
        """
        handed_over = None
        self._shared.open.add(self)
        try:
            try:
                with self._scope:  # one for all its requests: the first of them that is cancelled is the last
                    # (Here, for each coroutine between a request's task and what it waits for costs each request.)
                    while (head := await self._next_head()) is not None:
                        if head.upgrade == b"websocket" and head.method == "GET":
                            handed_over = _handshake(head, self._inbound.last_head) + self._inbound.rest()
                            break
                        if not await self._exchange(head):
                            break
                    else:
                        handed_over = self._inbound.rest() if self._inbound.is_http2 else None
            except SluiceError as error:  # what was sent is no request
                self._refused = error
            if self._refused is not None:
                await self._refuse(self._refused)
            # Where the request that came last was ended, its answer is not to be lost.
            ended = self._scope.cancelled_caught and self._answering is None
            if self._lingers or ended:
                await self._linger()
        except (Gone, Stalled):
            pass
        finally:
            self._shared.open.discard(self)
            self._shared.idle.leave(self)
            if handed_over is None:
                self._transport.close()
        return handed_over

    @property
    def waits(self) -> bool:
        """Whether no request runs."""
        return self._waiting

    @property
    def seconds_left(self) -> float:
        """Until it is ended for being idle, or for a head that takes too long; infinite while a request runs."""
        return min(self._shared.idle.left(self), self._shared.heads.left(self)) if self._waiting else math.inf

    def stop(self) -> None:
        """Ends it as soon as no request runs."""
        if self._waiting:
            self._transport.stop_waiting()

    def give_up_head(self) -> None:
        """The head of a request was not complete in time."""
        seconds = self._shared.settings.header_timeout
        self._refused = RequestTimeout(f"the request's head took more than {seconds:g} s")
        self._scope.cancel()

    async def _refuse(self, error: SluiceError) -> None:
        answering = self._answering
        answer = refuse(error, self._base.get("client"), unseen=answering is None).as_http1(answering)
        await self._transport.send(self._transport.write((answer,)))
        self._lingers = True

    async def _next_head(self) -> RequestHead | None:
        """None at the end, of whichever side, and where the client speaks HTTP/2."""
        inbound, shared = self._inbound, self._shared
        # Whether the last request stood by itself, and nothing is here of the next one.
        nothing = bool(self._head_bytes or (self._said and not inbound.buffered))
        begun = False
        try:
            if not nothing and inbound.buffered:  # pipelined: the others' turn comes between two requests of one client
                await trio.lowlevel.checkpoint()
            came = b""
            while nothing or (head := inbound.next_head()) is None:
                if not nothing and inbound.is_http2:
                    return None
                if nothing or not inbound.head_begun:
                    shared.idle.enter(self)
                elif not begun:
                    begun = True
                    shared.idle.leave(self)
                    shared.heads.enter(self)
                self._waiting = True
                if shared.closing:
                    self._transport.stop_waiting()
                came = await self._transport.receive(turns=1, stoppable=True)
                self._waiting = False
                if not came:
                    return None
                if nothing and came == self._head_bytes:
                    return self._head
                nothing = False
                inbound.feed(came)
            self._said = said_by(head, self._base)
            if came == inbound.last_head and not (inbound.buffered or head.chunked or head.content_length):
                self._head_bytes, self._head = came, head
            else:
                self._head_bytes = b""
            return head
        finally:
            if begun:
                shared.heads.leave(self)

    async def _exchange(self, head: RequestHead) -> bool:
        """Serves one request; whether another may follow."""
        transport, self._answering = self._transport, head
        exchange = Exchange(head, self._inbound, transport, self._shared.settings.stall_timeout, self._scope)
        if self._mark_request is not None:
            self._mark_request()
        transport.watched.on_gone = exchange.peer_left
        refused: SluiceError | None = None
        try:
            await self._app(exchange.asgi_scope(self._said), exchange.receive, exchange.send)
        except Exception as raised:  # noqa: BLE001 - the application's bug: told, and no other connection's matter
            refused = foreseen(raised)
        finally:
            transport.watched.on_gone = None
            if exchange.started and not exchange.complete and exchange.response.until_close:
                transport.reset()  # a FIN would make it look whole
        if not (exchange.started or exchange.broken or transport.watched.gone):
            raise refused or no_answer()
        if transport.watched.gone or not exchange.complete:
            return False
        self._answering = None
        self._lingers = not exchange.response.keeps_alive or not (
            self._inbound.left == 0 or await self._skip_body(exchange)
        )
        return not self._lingers

    async def _skip_body(self, exchange: Exchange) -> bool:
        """Reads what is left of a body that nobody wanted; False where that is too much."""
        if exchange.leaves_too_much:
            return False
        try:
            with trio.move_on_after(_LINGER_SECONDS):
                while self._inbound.left != 0:
                    if self._inbound.next_body(SPARE_BYTES) is None:
                        came = await self._transport.receive()
                        if not came:
                            return False
                        self._inbound.feed(came)
                return True
        except SluiceError:  # it is malformed; the answer has been given
            pass
        return False

    async def _linger(self) -> None:
        left = _LINGER_BYTES
        self._shared.idle.leave(self)
        self._waiting = True
        if self._shared.closing:
            self._transport.stop_waiting()
        with trio.move_on_after(_LINGER_SECONDS):
            await self._transport.end()
            while left > 0 and (came := await self._transport.receive(stoppable=True)):
                left -= len(came)


def _handshake(head: RequestHead, raw: bytes) -> bytes:
    """``raw`` for those who speak WebSocket, and HTTP/1.1 and no later minor version.

    *Errors*: BadRequest where a body would come first (RFC 9110 7.8): another hop would not take it for frames.
    """
    if head.chunked or head.content_length:
        raise BadRequest("a request that asks for a WebSocket has no body")
    line, end, fields = raw.partition(b"\r\n")
    return line[:-1] + b"1" + end + fields
