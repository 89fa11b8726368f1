"""The applications that Hypercorn's protocols call: what waits for each of them is bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol, cast

import trio
from hypercorn.config import Config
from hypercorn.protocol.http_stream import ASGIHTTPState
from hypercorn.protocol.ws_stream import ASGIWebsocketState
from hypercorn.trio.task_group import TaskGroup

from app.errors import RequestTimeout, SluiceError
from app.wire.asgi import PEER, Message
from app.wire.connection import Connections
from app.wire.exchange import Disconnected
from app.wire.hypercorn.http2 import Http2
from app.wire.hypercorn.http_stream import HttpStream
from app.wire.refusal import foreseen, no_answer

# Of a WebSocket that its application has not taken.
_MOST_MESSAGES = 4
# What Hypercorn calls a stream whose application has said all.
_ENDED = frozenset((ASGIHTTPState.CLOSED, ASGIWebsocketState.CLOSED, ASGIWebsocketState.HTTPCLOSED))


class Reader(Protocol):
    """The connection that an application's input comes from."""

    shared: ClassVar[Connections]
    protocol: Any

    def holding(self) -> AbstractContextManager[None]:
        """For as long as it waits for an application."""
        ...

    @property
    def held(self) -> bool: ...

    async def drop(self, reason: str) -> None:
        """Its client is taken for gone."""
        ...


class Stream(Protocol):
    """A request of Hypercorn's, as its application sees it."""

    stream_id: int
    state: Any

    @property
    def started(self) -> bool:
        """Whether some of its answer may have been sent."""
        ...

    async def app_send(self, message: Any) -> None:
        """ASGI's send."""
        ...

    async def end(self, error: SluiceError) -> None:
        """Its application has ended. error: what the client is told where nothing was sent."""
        ...


class ApplicationGroup(TaskGroup):
    """Spawns applications whose input is bounded without holding up the connection's reader."""

    applications: trio.Nursery

    def __init__(self, connection: Reader) -> None:
        super().__init__()
        self.connection = connection

    def end(self) -> None:
        """Ends what else runs for the connection: timers, which would keep it for as long as they sleep."""
        cast("trio.Nursery", self._nursery).cancel_scope.cancel()

    async def spawn_app(self, app: Any, config: Config, scope: Any, send: Any) -> Any:
        mailbox = Mailbox(self.connection, send.__self__)
        scope["extensions"][PEER] = mailbox
        self.applications.start_soon(_run, app, scope, mailbox)
        return mailbox.put


async def _run(app: Any, scope: Any, mailbox: Mailbox) -> None:
    error = None
    try:
        await app(scope, mailbox.receive, mailbox.send, trio.to_thread.run_sync, trio.from_thread.run)
    except Exception as raised:  # noqa: BLE001 - the application's bug: told, and no other stream's matter
        error = foreseen(raised)
    await mailbox.stream.end(error or no_answer())


class Mailbox:
    """What one stream's application has not taken yet, and its `Peer`.

    Bound: of a body, the credit that its client was given (RFC 9113 5.2), which comes back as it is taken; of a
    WebSocket, `_MOST_MESSAGES`, past which its connection is not read.
    """

    scope: trio.CancelScope | None = None
    close_code: int | None = None

    def __init__(self, connection: Reader, stream: Stream) -> None:
        self.stream = stream
        self._connection = connection
        self._messages: deque[Message] = deque()
        self._changed = trio.Event()
        self._gone = False
        self._whole = False
        self._call: Callable[[], None] | None = None

    @property
    def started(self) -> bool:
        return self.stream.started

    def when_gone(self, call: Callable[[], None]) -> None:
        if self._gone:
            call()
        else:
            self._call = call

    async def put(self, message: Message) -> None:
        if message["type"].endswith(".disconnect"):
            self._gone = True
            self.close_code = message.get("code")
            call, self._call = self._call, None
            if call is not None and not self._answered:
                call()
        while message["type"] == "websocket.receive" and len(self._messages) >= _MOST_MESSAGES:
            with self._connection.holding():
                await self._changed.wait()
        self._messages.append(message)
        self._change()

    async def receive(self) -> Message:
        while not self._messages:
            await self._wait()
        message = self._messages[0]
        if message["type"].endswith(".disconnect"):  # which is the last one, for whoever asks again
            await trio.lowlevel.checkpoint()  # where whoever was told has cancelled us
        else:
            self._messages.popleft()
            self._change()
        if message["type"] == "http.request":
            self._whole = not message["more_body"]
            await self._give_credit(len(message["body"]))
        return message

    async def send(self, message: Message) -> None:
        """ASGI's send. *Errors*: Disconnected, once the client has left."""
        if self._gone:  # Hypercorn would drop it: a route that sends for ever never ended
            await trio.lowlevel.checkpoint()
            raise Disconnected("the client has left")
        await self.stream.app_send(message)

    async def _wait(self) -> None:
        stall = self._connection.shared.settings.stall_timeout
        awaits_body = isinstance(self._protocol, Http2) and not self._whole
        with trio.move_on_after(stall if awaits_body else float("inf")) as waiting:
            await self._changed.wait()
        if waiting.cancelled_caught:
            raise RequestTimeout(f"no byte of the body came for {stall:g} s")

    async def _give_credit(self, size: int) -> None:
        if size and isinstance(self._protocol, Http2):
            await self._protocol.give_credit(self.stream.stream_id, size)

    @property
    def _answered(self) -> bool:
        """Whether all of the answer has been handed to the system, whether its application knows that or not."""
        protocol, stream = self._protocol, self.stream
        if isinstance(protocol, Http2) and isinstance(stream, HttpStream) and protocol.has_sent_all(stream):
            return True
        return stream.state in _ENDED

    @property
    def _protocol(self) -> Any:
        return self._connection.protocol.protocol

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
