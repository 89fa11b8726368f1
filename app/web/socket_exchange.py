"""One WebSocket, from its handshake to its end, as the boundary sees it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import trio

from app.errors import Forbidden, SluiceError
from app.http.problems import problem
from app.telemetry.outcomes import Outcome
from app.web.exchange import Exchange, problem_fields
from app.wire.asgi import Message
from app.wire.exchange import Disconnected

# Normal, going away, and no code at all, which is what browsers send (RFC 6455 7.4.1).
_POLITE_CODES = frozenset((1000, 1001, 1005))
_MOST_AHEAD = 4


class SocketExchange(Exchange):
    """A WebSocket (RFC 6455); its answer is 101 and whatever is sent, finished when either side closes.

    Bound, where ``receive`` alone tells of the end: `_MOST_AHEAD` messages that the application has not taken.
    """

    __slots__ = ("_ahead", "_close_code", "_put")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._close_code: int | None = None
        self._put, self._ahead = trio.open_memory_channel[Message](_MOST_AHEAD)

    async def watch_peer(self) -> None:
        """Reads ahead of the application, as far as the bound, and so learns of the end."""
        while (message := await self._receive())["type"] != "websocket.disconnect":
            await self._put.send(message)
        self._close_code = message.get("code")
        self.peer_left()

    async def receive(self) -> Message:
        message = await (self._ahead.receive() if self.peer is None else self._receive())
        self.taken += len(message.get("bytes") or message.get("text") or b"")
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.close" and not self.started:
            await self.send_problem(Forbidden("the route does not take this WebSocket"))
            return
        if kind == "websocket.accept":
            self.started, self.status = True, 101
            self._first_byte = self._clock()
            message = {**message, "headers": [*message.get("headers", ()), *self._headers()]}
        elif kind == "websocket.send":
            self.body_bytes += len(message.get("bytes") or message.get("text") or b"")
        elif kind == "websocket.close":
            self.finishing = True
        elif kind == "websocket.http.response.start":
            self.started, self.status = True, message["status"]
        await self._send(message)
        if kind == "websocket.close" or (
            kind == "websocket.http.response.body" and not message.get("more_body", False)
        ):
            self.finished = True

    async def send_problem(self, error: SluiceError) -> None:
        document = problem(error, self.request.id)
        headers = [*problem_fields(document), *self._headers(), (b"connection", b"close")]
        head = {"type": "websocket.http.response.start", "status": document.status, "headers": headers}
        self._first_byte = self._clock()
        self.body_bytes = len(document.body)
        with suppress(Disconnected):
            await self.send(head)
            await self.send({"type": "websocket.http.response.body", "body": document.body, "more_body": False})

    async def say_goodbye(self) -> None:
        """Closes what we end: going away, or a policy of ours (RFC 6455 7.4.1)."""
        code = 1001 if self.request.ended_by == "shutdown" else 1008
        with suppress(Disconnected):
            await self._send({"type": "websocket.close", "code": code, "reason": self.request.ended_by or ""})

    def outcome(self, error: SluiceError | None) -> Outcome:
        """Who closes it as he should has not just gone away."""
        code = self._close_code if self.peer is None else self.peer.close_code
        if error is None and self.started and self.request.ended_by == "disconnected" and code in _POLITE_CODES:
            return "ok"
        return super().outcome(error)

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return self._own()
