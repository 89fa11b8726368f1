"""WebSockets through the adapter: messages are pulled, and whoever leaves, stalls or breaks the rules ends alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate

import app.wire.hypercorn.websocket
import tests.wire.serving
from app.errors import NotFound
from app.flow.drain import DrainGate
from app.flow.request import current_request
from app.settings import ServerSettings
from app.telemetry.logs import _identify
from app.web.boundary import Boundary
from app.wire.asgi import AsgiApp, Message, Receive, Scope, Send
from app.wire.hypercorn import hypercorn_values
from tests.wire.serving import GET, SETTINGS, Client, Server, Waiting, answer, open_server, over_both

HANDSHAKE = (
    b"GET /socket HTTP/1.1\r\nHost: sluice\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
KIB = 1024


class Socket:
    """A client; it reads only while it waits for something."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.ws = WSConnection(ConnectionType.CLIENT)
        self.events: list[Event] = []

    async def ask(self, *fields: tuple[str, str], extensions: bool = False) -> None:
        offered = [PerMessageDeflate()] if extensions else []
        headers = [(name.encode(), value.encode()) for name, value in fields]
        await self.say(Request("sluice", "/socket", extra_headers=headers, extensions=list(offered)))

    async def open(self, *fields: tuple[str, str]) -> AcceptConnection:
        await self.ask(*fields)
        accepted = await self.next()
        assert isinstance(accepted, AcceptConnection), accepted
        return accepted

    async def say(self, *events: Event) -> None:
        await self.client.send(b"".join(map(self.ws.send, events)))

    async def next(self) -> Event:
        """The next event but for pings. *Errors*: EOFError."""
        while True:
            while self.events:
                event = self.events.pop(0)
                if not isinstance(event, Ping):
                    return event
            data = await self.client.receive()
            if not data:
                raise EOFError
            self.ws.receive_data(data)
            self.events += self.ws.events()

    async def message(self) -> bytes | str:
        whole: Any = None
        while True:
            event = await self.next()
            assert isinstance(event, BytesMessage | TextMessage), event
            whole = event.data if whole is None else whole + event.data
            if event.message_finished:
                return bytes(whole) if isinstance(event, BytesMessage) else whole

    async def closed(self) -> tuple[int, str | None]:
        """The code and reason with which the server closes, next; the connection ends then, on both sides."""
        event = await self.next()
        assert isinstance(event, CloseConnection), event
        assert await self.client.rest() == b""
        self.client.leave("close")
        return event.code, event.reason


@asynccontextmanager
async def connected(server: Server, **options: Any) -> AsyncGenerator[Socket]:
    async with server.connect(**options) as client:
        yield Socket(client)


def bounded(app: AsgiApp, gate: DrainGate | None = None) -> AsgiApp:
    return Boundary(app, gate or DrainGate(), SETTINGS)


async def accept(receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Also answers HTTP."""
    if scope["type"] == "http":
        await answer(send, b"hello")
        return
    await accept(receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": message["bytes"], "text": message["text"]})


class Held:
    """Accepts, and takes as many messages as it is allowed to."""

    def __init__(self) -> None:
        self.allowed, self._allowed = trio.open_memory_channel[None](10_000)
        self.taken: list[bytes | str] = []
        self.accepted = trio.Event()
        self.ended = trio.Event()
        self.reason: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await accept(receive, send)
            self.accepted.set()
            async for _ in self._allowed:
                message = await receive()
                self.taken.append(message["text"] if message["bytes"] is None else message["bytes"])
        finally:
            request = current_request.get(None)
            self.reason = None if request is None else request.reason
            self.ended.set()


class Endless:
    """Accepts, and sends for ever."""

    def __init__(self) -> None:
        self.sent = 0
        self.ended = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await accept(receive, send)
            while True:
                await send({"type": "websocket.send", "bytes": bytes(64 * KIB)})
                self.sent += 1
        finally:
            self.ended.set()


# -- messages ----------------------------------------------------------------------------------------------------------


@over_both
async def test_messages_go_both_ways(tls: bool) -> None:
    async with open_server(bounded(echo), tls=tls) as server, connected(server) as socket:
        accepted = await socket.open(("x-request-id", "asked-for"))
        assert (b"x-request-id", b"asked-for") in accepted.extra_headers
        for message in (b"bytes", "text", b"", "", bytes(500 * KIB), "ü" * 1000):
            is_text = isinstance(message, str)
            await socket.say(TextMessage(message) if is_text else BytesMessage(message))  # type: ignore[arg-type]
            assert await socket.message() == message
        await socket.say(Ping(b"alive"))
        assert await socket.next() == Pong(b"alive")


async def test_a_message_in_pieces_arrives_as_one() -> None:
    async with open_server(echo) as server, connected(server) as socket:
        await socket.open()
        for piece in (b"one ", b"two "):
            await socket.say(BytesMessage(piece, message_finished=False))
            await socket.say(Ping(b"between"))
            assert await socket.next() == Pong(b"between")
        await socket.say(BytesMessage(b"three"))
        assert await socket.message() == b"one two three"


async def test_a_route_that_does_not_take_messages_holds_the_sender() -> None:
    held, message = Held(), bytes(64 * KIB)
    async with open_server(held) as server, connected(server) as socket:
        socket.client.raw.setsockopt(1, 7, 64 * KIB)  # SOL_SOCKET, SO_SNDBUF
        await socket.open()
        sent = 0
        with trio.move_on_after(0.5):
            while True:
                await socket.say(BytesMessage(message))
                sent += 1
        assert sent < 300  # what the kernel holds, and little more
        for _ in range(sent):
            held.allowed.send_nowait(None)
        held.allowed.close()
        await held.ended.wait()
        assert held.taken == [message] * sent


async def test_messages_are_held_by_number_not_by_size_only() -> None:
    """Small ones are many where only bytes are counted."""
    held = Held()
    async with open_server(held) as server, connected(server) as socket:
        socket.client.raw.setsockopt(1, 7, 64 * KIB)
        await socket.open()
        await held.accepted.wait()
        for number in range(10_000):
            await socket.say(TextMessage(str(number)))
            held.allowed.send_nowait(None)
        held.allowed.close()
        await held.ended.wait()
        assert held.taken == [str(number) for number in range(10_000)]


async def test_messages_are_not_compressed() -> None:
    """A few bytes could be unpacked to any size."""
    async with open_server(echo) as server, connected(server) as socket:
        await socket.ask(extensions=True)
        accepted = await socket.next()
        assert isinstance(accepted, AcceptConnection)
        assert accepted.extensions == []


async def test_what_comes_before_the_answer_to_the_handshake_is_not_lost() -> None:
    async with open_server(echo) as server, server.connect() as client:
        peer = WSConnection(ConnectionType.CLIENT)
        request = peer.send(Request("sluice", "/socket"))
        frames = b"\x81\x82\0\0\0\0hi" + b"\x82\x83\0\0\0\0you"  # masked with zeros
        await client.send(request + frames)
        received: list[Event] = []
        while len(received) < 3:
            data = await client.receive()
            assert data, received
            peer.receive_data(data)
            received += peer.events()
        assert isinstance(received.pop(0), AcceptConnection)
        assert [event.data for event in received if isinstance(event, TextMessage | BytesMessage)] == ["hi", b"you"]


@pytest.mark.parametrize("comes", ["before", "after"])
async def test_a_late_acceptance_loses_nothing(comes: str) -> None:
    accepts, handed = trio.Event(), trio.Event()

    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        handed.set()
        await accepts.wait()
        await echo(scope, receive, send)

    async with open_server(late) as server, server.connect() as client:
        frame = b"\x81\x82\0\0\0\0hi"
        await client.send(HANDSHAKE + (frame if comes == "before" else b""))
        await handed.wait()
        if comes == "after":
            await client.send(frame)
        await trio.sleep(0.05)
        accepts.set()
        received = b""
        while not received.endswith(b"\x81\x02hi"):
            data = await client.receive()
            assert data, received
            received += data
        assert received.startswith(b"HTTP/1.1 101 ")


# -- leaving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("behind", [0, 12], ids=["all taken", "messages behind"])
async def test_whoever_leaves_is_noticed_at_once(how: Any, behind: int) -> None:
    held = Held()
    with structlog.testing.capture_logs() as logs:
        async with open_server(bounded(held)) as server, connected(server) as socket:
            await socket.open()
            for _ in range(behind):
                await socket.say(BytesMessage(bytes(4 * KIB)))
            await held.accepted.wait()
            await trio.sleep(0.05)
            left = trio.current_time()
            socket.client.leave(how)
            await held.ended.wait()
            assert trio.current_time() - left < 0.05
            await server.all_gone()
    assert held.reason == "disconnected"
    assert [(line["status"], line["outcome"]) for line in logs] == [(499, "disconnected")]


async def test_whoever_leaves_before_the_answer_to_the_handshake_is_noticed_at_once() -> None:
    waiting = Waiting()
    async with open_server(bounded(waiting)) as server, server.connect() as client:
        await client.send(HANDSHAKE + b"\x81\x82\0\0\0\0hi")
        await waiting.begun.wait()
        left = trio.current_time()
        client.leave("half-close")
        await waiting.ended.wait()
        assert trio.current_time() - left < 0.05
        await server.all_gone()


@pytest.mark.parametrize("code", [1000, 1001, 1008, 4000])
async def test_a_client_that_closes_is_answered_and_its_route_ended(code: int) -> None:
    """Who closes as he should has not just gone away."""
    held = Held()
    with structlog.testing.capture_logs() as logs:
        async with open_server(bounded(held)) as server, connected(server) as socket:
            await socket.open()
            await held.accepted.wait()
            await socket.say(CloseConnection(code, "done"))
            assert await socket.closed() == (code, "done")
            await held.ended.wait()
            await server.all_gone()
    polite = code in {1000, 1001}
    assert [(line["status"], line["outcome"]) for line in logs] == [(101, "ok") if polite else (499, "disconnected")]


async def test_a_browser_closes_without_a_code() -> None:
    held = Held()
    with structlog.testing.capture_logs() as logs:
        async with open_server(bounded(held)) as server, connected(server) as socket:
            await socket.open()
            await held.accepted.wait()
            await socket.client.send(b"\x88\x80\0\0\0\0")
            await held.ended.wait()
            await server.all_gone()
    assert [(line["status"], line["outcome"]) for line in logs] == [(101, "ok")]


async def test_an_application_is_told_with_which_code_its_client_has_closed() -> None:
    told: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        told.append(await receive())

    async with open_server(app) as server:
        async with connected(server) as socket:
            await socket.open()
            await socket.say(CloseConnection(4321, "enough"))
            await server.all_gone()
        async with connected(server) as socket:
            await socket.open()
            socket.client.leave("close")
            await server.all_gone()
    assert [(message["type"], message["code"]) for message in told] == [
        ("websocket.disconnect", 4321),
        ("websocket.disconnect", 1006),
    ]
    assert told[0]["reason"] == "enough"


async def test_a_route_that_sends_for_ever_ends_with_its_client_even_where_nobody_cancels_it() -> None:
    endless = Endless()
    async with open_server(endless) as server, connected(server) as socket:
        await socket.open()
        socket.client.leave("reset")
        await endless.ended.wait()
        await server.all_gone()


async def test_a_route_that_asks_for_ever_lets_others_run() -> None:
    asked = 0

    async def ask(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal asked
        if scope["type"] == "http":
            await answer(send, b"hello")
            return
        await accept(receive, send)
        while asked < 1000:
            asked += (await receive())["type"] == "websocket.disconnect"

    async with open_server(ask) as server, connected(server) as socket:
        await socket.open()
        socket.client.leave("reset")
        assert (await server.ask(GET)).body == b"hello"
        await server.all_gone()


# -- stalls, limits, the end of the server -----------------------------------------------------------------------------


@over_both
async def test_a_reader_that_stalls_is_cut(tls: bool) -> None:
    endless = Endless()
    with structlog.testing.capture_logs() as logs:
        async with open_server(bounded(endless), tls=tls, stall_timeout=0.3) as server, connected(server) as socket:
            await socket.open()
            await endless.ended.wait()
            await server.all_gone()
    assert {"event": "connection stalled", "seconds": 0.3, "log_level": "info"} in logs


async def test_a_deadline_ends_a_route_in_the_middle_of_a_message() -> None:
    endless = Endless()
    with structlog.testing.capture_logs() as logs:
        async with open_server(bounded(endless)) as server, connected(server) as socket:
            await socket.open(("sluice-deadline", "0.3"))
            await endless.ended.wait()
            await server.all_gone()
    assert [line["outcome"] for line in logs if line["event"] == "request"] == ["deadline"]


@pytest.mark.parametrize("pending", [0, 20], ids=["all taken", "messages behind"])
@pytest.mark.parametrize(("cause", "code"), [("shutdown", 1001), ("deadline", 1008)])
async def test_what_we_end_is_closed_with_the_reason(cause: str, code: int, pending: int) -> None:
    """Also where what the client has sent lies unread, which would reset the connection and our last words with it."""
    held, gate = Held(), DrainGate()
    with structlog.testing.capture_logs() as logs:
        async with open_server(bounded(held, gate)) as server, connected(server) as socket:
            await socket.open(*([("sluice-deadline", "0.3")] if cause == "deadline" else []))
            await held.accepted.wait()
            for _ in range(pending):
                await socket.say(BytesMessage(bytes(KIB)))
            if cause == "shutdown":
                gate.start()
                gate.cut()
            await held.ended.wait()
            await trio.sleep(0.05)
            assert await socket.closed() == (code, cause)
            await server.all_gone()
    assert [(line["status"], line["outcome"]) for line in logs] == [(101, cause)]


@pytest.mark.parametrize("pieces", [1, 8])
async def test_a_message_that_is_too_large_closes(pieces: int) -> None:
    held = Held()
    async with open_server(bounded(held), max_json=100 * KIB) as server, connected(server) as socket:
        await socket.open()
        for _ in range(pieces):
            await socket.say(BytesMessage(bytes(400 * KIB // pieces), message_finished=False))
        assert await socket.closed() == (1009, "")
        await held.ended.wait()
        await server.all_gone()


async def test_a_message_of_the_largest_size_is_taken() -> None:
    async with open_server(echo, max_json=100 * KIB) as server, connected(server) as socket:
        await socket.open()
        await socket.say(BytesMessage(bytes(100 * KIB)))
        assert await socket.message() == bytes(100 * KIB)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param(b"\x81\x02hi", 1002, id="not masked"),
        pytest.param(b"\xf1\x82\0\0\0\0hi", 1002, id="reserved bits"),
        pytest.param(b"\x83\x82\0\0\0\0hi", 1002, id="an unknown kind"),
        pytest.param(b"\x80\x82\0\0\0\0hi", 1002, id="the rest of nothing"),
        pytest.param(b"\x09\x80\0\0\0\0", 1002, id="a ping in pieces"),
        pytest.param(b"\x81\x81\0\0\0\0\xff", 1007, id="no UTF-8"),
        pytest.param(b"\x88\x81\0\0\0\0\x03", 1002, id="half a code"),
    ],
)
async def test_bad_frames_end_their_connection_only(frames: bytes, code: int) -> None:
    held = Held()
    with structlog.testing.capture_logs() as logs:
        async with open_server(bounded(held)) as server, connected(server) as other, connected(server) as socket:
            await other.open()
            await socket.open()
            await held.accepted.wait()
            await socket.client.send(frames)
            assert (await socket.closed())[0] == code
            await held.ended.wait()
            await other.say(Ping(b"alive"))
            assert await other.next() == Pong(b"alive")
            other.client.leave("reset")
    assert {line["event"] for line in logs} == {"request"}


# -- pings -------------------------------------------------------------------------------------------------------------


def pinging(monkeypatch: pytest.MonkeyPatch, patience: float) -> None:
    def values(settings: ServerSettings) -> dict[str, Any]:
        return hypercorn_values(settings) | {"websocket_ping_interval": 0.02}

    monkeypatch.setattr(tests.wire.serving, "hypercorn_values", values)
    monkeypatch.setattr(app.wire.hypercorn.websocket, "PONG_SECONDS", patience)


async def test_a_client_that_answers_no_ping_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    pinging(monkeypatch, 0.1)
    held = Held()
    with structlog.testing.capture_logs() as logs:
        async with open_server(bounded(held)) as server, connected(server) as socket:
            await socket.open()
            await held.accepted.wait()
            with trio.fail_after(20):
                await held.ended.wait()
    assert [line["outcome"] for line in logs if line["event"] == "request"] == ["disconnected"]
    assert [line["reason"] for line in logs if line["event"] == "connection dropped"] == ["no answer to a ping"]


async def test_a_client_that_answers_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    pinging(monkeypatch, 20)
    async with open_server(bounded(echo)) as server, connected(server) as socket:
        await socket.open()
        pings = 0
        while pings < 5:
            socket.ws.receive_data(await socket.client.receive())
            for event in socket.ws.events():
                assert isinstance(event, Ping)
                pings += 1
                await socket.say(event.response())
        await socket.say(TextMessage("hi"))
        assert await socket.message() == "hi"


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_a_refusal_is_a_problem_document_and_nothing_behind_it_is_served() -> None:
    served: list[str] = []

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        served.append(scope["type"])
        raise NotFound("there is nothing at /socket")

    for _ in range(5):
        async with open_server(bounded(refuse)) as server, server.connect() as client:
            refused = await client.ask(HANDSHAKE + GET + GET)
            assert (refused.status, refused.problem["type"]) == (404, "urn:sluice:error:not-found")
            assert refused.complete
            assert await client.rest() == b""
    assert served == ["websocket"] * 5


@pytest.mark.parametrize("with_boundary", [False, True], ids=["raw", "boundary"])
@pytest.mark.parametrize("how", ["close", "return", "raise"])
async def test_a_route_that_does_not_accept_refuses(how: str, with_boundary: bool) -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if how == "close":
            await send({"type": "websocket.close"})
        if how == "raise":
            raise NotFound("there is nothing at /socket")

    status = {"close": 403, "return": 500, "raise": 404}[how]
    with structlog.testing.capture_logs(processors=[_identify]) as logs:
        async with (
            open_server(bounded(refuse) if with_boundary else refuse) as server,
            server.connect() as client,
        ):
            refused = await client.ask(HANDSHAKE)
            assert await client.rest() == b""
    assert (refused.status, refused.problem["status"], refused.complete) == (status, status, True)
    assert refused.fields[b"x-request-id"].decode() == refused.problem["request_id"]
    (line,) = [line for line in logs if line["event"] == ("request" if with_boundary else "request refused")]
    assert (line["status"], line["request_id"]) == (status, refused.problem["request_id"])
    assert line.get("outcome") == (("error" if how == "return" else "client_error") if with_boundary else None)


async def test_a_request_id_is_that_of_the_client_also_in_a_refusal() -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close"})

    async with open_server(bounded(refuse)) as server:
        refused = await server.ask(HANDSHAKE[:-2] + b"X-Request-Id: asked-for\r\n\r\n")
    assert (refused.status, refused.fields[b"x-request-id"]) == (403, b"asked-for")


@pytest.mark.parametrize(
    "field", [b"Sec-WebSocket-Version: 12\r\n", b"", b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key:\r\n"]
)
async def test_a_handshake_that_is_none_is_refused(field: bytes) -> None:
    head = b"GET / HTTP/1.1\r\nHost: sluice\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    async with open_server(echo) as server, server.connect() as client:
        refused = await client.ask(head + field + b"\r\n")
        assert refused.status == 400
        assert refused.fields[b"x-request-id"].decode() == refused.problem["request_id"]
        assert await client.rest() == b""
        assert (await server.ask(GET)).body == b"hello"


@pytest.mark.parametrize("field", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
async def test_a_handshake_with_a_body_is_refused(field: bytes) -> None:
    """Another hop takes the body for one, and not for frames (RFC 9110 7.8)."""
    ping = b"\x89\x83\0\0\0\0hey"
    async with open_server(echo) as server, server.connect() as client:
        refused = await client.ask(HANDSHAKE[:-2] + field + b"\r\n\r\n" + ping)
        assert (refused.status, refused.problem["error"]) == (400, "Bad request")
        assert await client.rest() == b""


async def test_a_handshake_of_a_later_minor_version_is_one() -> None:
    async with open_server(echo) as server, server.connect() as client:
        await client.send(HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.5"))
        assert (await client.receive()).startswith(b"HTTP/1.1 101 ")


async def test_an_upgrade_to_something_else_is_an_ordinary_request() -> None:
    async with open_server(echo) as server:
        request = HANDSHAKE.replace(b"websocket", b"carrier-pigeon")
        assert (await server.ask(request)).body == b"hello"


async def test_an_error_after_the_acceptance_closes() -> None:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(receive, send)
        raise ValueError("a bug")

    with structlog.testing.capture_logs() as logs:
        async with open_server(bounded(fail)) as server, connected(server) as socket:
            await socket.open()
            code, _ = await socket.closed()
            assert code in {1008, 1011}
    assert [line["event"] for line in logs] == ["unexpected error", "request"]
