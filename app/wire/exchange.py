"""One request and its answer on an HTTP/1.1 connection, as ASGI sees them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn, cast

import structlog
import trio

from app.errors import RequestTimeout
from app.wire.asgi import NOTHING, PEER, TRAILERS, WHOLE, ZERO_COPY, Message, Scope
from app.wire.http1 import Inbound, RequestHead
from app.wire.response import CONTINUE, Buffer, Fields, Response
from app.wire.transport import READ_BYTES, TURNS, Gone, Stalled, Transport

_log = structlog.get_logger()

# What is left of a body that nobody wanted is read, if it is known to be no more, so that the connection may be kept.
SPARE_BYTES = 64 * 1024
# Of a body, in one write after which other tasks get their turn.
_YIELD_BYTES = 64 * 1024
_OFFERED: dict[str, Any] = {}


class Disconnected(OSError):
    """The peer left before the answer was complete (ASGI 2.4: ``send`` raises an OSError then)."""


class Exchange:
    """ASGI's ``receive`` and ``send`` for one request, and its `Peer`.

    scope: what the application runs in; cancelled, it ends the connection after this request.

    The body is pulled: ``receive`` reads the socket when it is called, and only then. Bound: `READ_BYTES` of it here.
    The head of the answer waits for the first of its body, so that both leave in one write.

    complete: the answer has been sent to its end. started: some of it may have been sent. broken: part of a write was
    left out, or the peer has gone; nothing may follow on the connection.

    *Cancellation*: of ``receive`` is harmless; of ``send`` breaks the connection. *Errors* of ``receive``: BadRequest
    (framing), RequestTimeout (no byte for as long as the stall limit); of ``send``: Disconnected.
    """

    __slots__ = (
        "_call",
        "_continued",
        "_inbound",
        "_over",
        "_passed",
        "_stall",
        "_start",
        "_trailers",
        "_transport",
        "_unsent",
        "_writes",
        "broken",
        "complete",
        "head",
        "response",
        "scope",
        "started",
    )

    close_code: int | None = None

    def __init__(
        self, head: RequestHead, inbound: Inbound, transport: Transport, stall: float, scope: trio.CancelScope
    ) -> None:
        self.head = head
        self.scope = scope
        self.response = Response(head)
        self.started = self.complete = False
        self.broken = transport.watched.gone
        self._inbound = inbound
        self._transport = transport
        self._stall = stall
        self._start: Message | None = None
        self._passed = False
        self._continued = not head.expects_continue
        self._writes = 0
        self._unsent: Buffer = b""
        self._trailers: tuple[tuple[bytes, bytes], ...] = ()
        self._over: trio.Event | None = None
        self._call: Callable[[], None] | None = None

    def asgi_scope(self, said: Scope) -> Scope:
        """said: what the connection and the head of the request say, as `said_by` has it."""
        extensions: dict[str, Any] = {PEER: self, WHOLE: _OFFERED}
        if self._transport.sends_files:
            extensions[ZERO_COPY] = _OFFERED
        if self.head.wants_trailers:
            extensions[TRAILERS] = _OFFERED
        # Copies, for applications may change what is theirs.
        return {**said, "headers": self.head.headers.copy(), "extensions": extensions}

    # -- the peer ------------------------------------------------------------------------------------------------------

    def when_gone(self, call: Callable[[], None]) -> None:
        if self._transport.watched.gone:
            call()
        else:
            self._call = call

    def peer_left(self) -> None:
        """Tells whoever wants to know; once the answer is complete nobody does."""
        if self.complete:
            return
        self.broken = True
        if self._over is not None:
            self._over.set()
        call, self._call = self._call, None
        if call is not None:
            call()

    # -- the request's body --------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        if not self._passed:
            data = await self._next_body()
            if data is not None:
                self._passed = self._inbound.left == 0
                return {"type": "http.request", "body": data, "more_body": not self._passed}
        if self.complete or self.broken:
            await trio.lowlevel.checkpoint()  # who asks again and again must not keep the loop to itself
        else:
            if self._over is None:
                self._over = trio.Event()
            await self._over.wait()
        return {"type": "http.disconnect"}

    async def _next_body(self) -> bytes | None:
        """None where the peer has left."""
        if self._inbound.cut_short:  # whoever sends tiny chunks does not keep the loop to himself
            await trio.lowlevel.checkpoint()
        while not self.broken:
            data = self._inbound.next_body(READ_BYTES)
            if data is not None:
                return data
            if not self._continued and not self.started:
                self._continued = True
                await self._write((CONTINUE,))
            try:
                with trio.fail_after(self._stall):
                    came = await self._transport.receive()
            except trio.TooSlowError as error:
                raise RequestTimeout(f"no byte of the body came for {self._stall:g} s") from error
            if not came:
                self.peer_left()
                return None
            self._inbound.feed(came)
        return None

    @property
    def leaves_too_much(self) -> bool:
        """Whether more of the body is left than is worth reading for nobody."""
        inbound = self._inbound
        if inbound.left == 0:
            return False
        return not self._continued or inbound.left is None or inbound.left > SPARE_BYTES

    # -- the answer ----------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> Awaitable[None]:
        if message["type"] != WHOLE or self.started:
            return self._send_part(message)
        close = message.get("close", False) or (self._inbound.left != 0 and self.leaves_too_much)
        buffers = self.response.at_once(
            message["status"], message["headers"], message["body"], close=close, own=message.get("own", b"")
        )
        self.started = True
        if (left := self._put(buffers)) is not None:
            return self._finish_after(left)
        self._finish()
        return NOTHING

    def send_now(self, data: bytes) -> bool:
        """A part of the body of an answer that has begun, while no ``send`` runs: what goes without waiting. Whether
        all of it went; else the rest goes with the next ``send``, which has to follow soon."""
        if self.broken or self.complete:
            return True
        try:
            self._unsent = self._transport.write(self.response.body(data))
        except Gone:
            self.peer_left()
        return not self._unsent

    async def _finish_after(self, sending: Awaitable[None]) -> None:
        await sending
        self._finish()

    async def _send_part(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start" if not self.started:
                self._start = message
            case "http.response.body" if self._start is not None and not self.complete:
                await self._send_body(message.get("body", b""), more=message.get("more_body", False))
            case "http.response.zerocopysend" if self._start is not None and not self.complete:
                await self._send_file(message)
            case "http.response.trailers" if self._start is not None and not self.complete:
                self._trailers = (*self._trailers, *message.get("headers", ()))
                if not message.get("more_trailers", False):
                    await self._send_trailers(self._trailers)
            case kind:
                raise RuntimeError(f"{kind!r} at this point of an answer")

    async def _send_body(self, data: bytes, *, more: bool) -> None:
        last = not more and not self._trailers_follow
        buffers: list[Buffer] = [] if self.started else [self._begin(len(data) if last else None, last=last)]
        buffers += self.response.body(data)
        if last and (end := self.response.end()):
            buffers.append(end)
        if buffers or not last:  # who sends for ever to a HEAD has to give way too, and to learn of its end
            self.started = True
            await self._write(buffers or (b"",))
        if last:
            self._finish()

    async def _send_file(self, message: Message) -> None:
        file, offset, count = message["file"], message.get("offset", 0), message["count"]
        more = message.get("more_body", False)
        last = not more and not self._trailers_follow
        head = b"" if self.started else self._begin(count if last else None, last=last)
        before, after = self.response.frame_of(count)
        self.started = True
        if before is None:
            await self._write((head,))
        else:
            self._transport.cork(on=True)
            try:
                await self._write((head + before,))
                descriptor = file if isinstance(file, int) else file.fileno()
                await self._guarded(self._transport.send_file(descriptor, offset, count))
                if after:
                    await self._write((after,))
            finally:
                self._transport.cork(on=False)
        if last:
            if end := self.response.end():
                await self._write((end,))
            self._finish()

    async def _send_trailers(self, fields: Fields) -> None:
        buffers = [] if self.started else [self._begin(None, last=True)]
        buffers.append(self.response.end(fields))
        self.started = True
        await self._write(buffers)
        self._finish()

    def _finish(self) -> None:
        self.complete = True
        self._call = None
        if self._over is not None:
            self._over.set()

    @property
    def _trailers_follow(self) -> bool:
        return self._start is not None and self._start.get("trailers", False)

    def _begin(self, size: int | None, *, last: bool) -> bytes:
        start = cast("Message", self._start)
        status = start["status"]
        # An answer that comes before its request is through ends the connection (RFC 9112 9.6), unless it is one that
        # goes on while the request does.
        close = (last or status >= 400) and self._inbound.left != 0 and self.leaves_too_much
        fields = list(start.get("headers", ()))  # whatever they are in: what they come to need not be remembered
        return self.response.begin(status, fields, size=size, close=close, trailers=self._trailers_follow)

    async def _write(self, buffers: Sequence[Buffer]) -> None:
        if (left := self._put(buffers)) is not None:
            await left

    def _put(self, buffers: Sequence[Buffer]) -> Awaitable[None] | None:
        """Writes what goes without waiting; what has to be awaited after it, which is nearly always nothing."""
        if self.broken:
            return self._lost()
        if self._unsent:
            buffers, self._unsent = [self._unsent, *buffers], b""
        try:
            rest = self._transport.write(buffers)
        except Gone:
            return self._lost()
        self._writes += 1
        if rest:
            return self._guarded(self._transport.send(rest))
        if len(buffers[-1]) >= _YIELD_BYTES or self._writes % TURNS == 0:
            return _give_way()
        return None

    async def _guarded(self, sending: Awaitable[None]) -> None:
        complete = False
        try:
            await sending
            complete = True
        except Stalled:
            _log.info("connection stalled", seconds=self._stall)
            self._transport.reset()
            await self._lost()
        except Gone:
            await self._lost()
        finally:
            if not complete:
                self.broken = True

    async def _lost(self) -> NoReturn:
        self.peer_left()
        await trio.lowlevel.checkpoint()  # where whoever was told has cancelled us
        raise Disconnected("the client has left")


async def _give_way() -> None:
    await trio.lowlevel.checkpoint()  # what never has to wait would keep the loop to itself


def said_by(head: RequestHead, base: Scope) -> Scope:
    """The members of an ASGI scope that a head says, and those of its connection, ``base``."""
    return {
        **base,
        "http_version": head.version,
        "method": head.method,
        "path": head.path,
        "raw_path": head.raw_path,
        "query_string": head.query,
    }
