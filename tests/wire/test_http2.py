"""HTTP/2 through the adapter: streams do not hold one another up, and none takes more than the server has asked for."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import h2.events
import hyperframe.frame
import pytest
import structlog
import trio

from app.flow.request import current_request
from app.wire.asgi import PEER, Receive, Scope, Send
from app.wire.hypercorn.http2_requests import Http2Connection
from tests.wire.http2_client import CODES, LARGEST, WINDOW, Http2, bounded, connected, hello
from tests.wire.serving import Leaving, answer, echo, end, open_server, over_both, part, read_body, start

ASKED = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "sluice")]


class Slow:
    """``/slow`` takes of its body what it is allowed to; all else is answered at once."""

    def __init__(self) -> None:
        self.allowed, self._allowed = trio.open_memory_channel[int](1000)
        self.taken = 0
        self.gone = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/slow":
            await hello(scope, receive, send)
            return
        try:
            async for allowed in self._allowed:
                until = self.taken + allowed
                while self.taken < until:
                    message = await receive()
                    self.taken += len(message["body"])
            await answer(send, b"slow")
        finally:
            self.gone.set()


# -- uploads -----------------------------------------------------------------------------------------------------------


@over_both
async def test_a_slow_upload_holds_up_its_own_stream_only(tls: bool) -> None:
    slow = Slow()
    async with open_server(bounded(slow), tls=tls) as server, connected(server) as client:
        stream = await client.ask("/slow", method="POST", ends=False)
        await client.upload(stream, bytes(WINDOW))
        assert await client.body(await client.ask("/other")) == b"hello"
        other = await client.ask("/other", method="POST", ends=False)
        await client.upload(other, bytes(10), ends=True)
        assert await client.body(other) == b"hello"
        await client.ping()
        assert not slow.gone.is_set()
        client.h2.reset_stream(stream)
        await client.flush()
        await slow.gone.wait()


async def test_credit_comes_back_for_what_the_route_has_taken_and_no_more() -> None:
    slow = Slow()
    async with open_server(slow) as server, connected(server) as client:
        stream = await client.ask("/slow", method="POST", ends=False)
        await client.upload(stream, bytes(WINDOW))
        await client.ping()
        assert client.window(stream) == 0
        slow.allowed.send_nowait(1)
        await client.until(lambda: client.window(stream) > 0)
        await client.ping()
        assert client.window(stream) == slow.taken < WINDOW
        assert client.h2.outbound_flow_control_window == WINDOW
        slow.allowed.close()
        assert await client.body(stream) == b"slow"


async def test_a_client_that_sends_more_than_its_credit_is_sent_away() -> None:
    slow = Slow()
    async with open_server(slow) as server, connected(server) as client:
        stream = await client.ask("/slow", method="POST", ends=False)
        await client.upload(stream, bytes(WINDOW))
        await client.client.send(hyperframe.frame.DataFrame(stream, bytes(1)).serialize())
        assert await client.goodbye() == CODES.FLOW_CONTROL_ERROR
        slow.allowed.close()
        async with connected(server) as other:
            assert await other.body(await other.ask("/")) == b"hello"


async def test_padding_is_credited_at_once() -> None:
    slow = Slow()
    async with open_server(slow) as server, connected(server) as client:
        stream = await client.ask("/slow", method="POST", ends=False)
        for _ in range(1000):  # far more than the window
            await client.upload(stream, bytes(10), padding=255)
        await client.ping()
        assert client.window(stream) == WINDOW - 10_000
        assert client.h2.outbound_flow_control_window == WINDOW
        slow.allowed.close()
        await client.body(stream)


async def test_both_windows_are_right_after_a_large_upload() -> None:
    data = bytes(range(256)) * 20_000

    async def digest(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, hashlib.sha256(await read_body(receive)).digest())

    async with open_server(digest) as server, connected(server) as client:
        for number in range(2):
            stream = await client.ask("/", method="POST", ends=False)
            await client.upload(stream, data, ends=True)
            assert await client.body(stream) == hashlib.sha256(data).digest(), number
        await client.ping()
        assert client.h2.outbound_flow_control_window == WINDOW


async def test_an_answer_before_the_end_of_an_upload_is_whole_and_the_upload_is_ended_without_an_error() -> None:
    async with open_server(hello) as server, connected(server) as client:
        stream = await client.ask("/", method="POST", ends=False)
        assert await client.body(stream) == b"hello"
        assert await client.reset(stream) == CODES.NO_ERROR
        # What was on its way meanwhile is dropped, and credited to the connection.
        for _ in range(20):
            await client.client.send(hyperframe.frame.DataFrame(stream, bytes(16_000)).serialize())
            await client.ping()
        await client.client.send(hyperframe.frame.DataFrame(stream, b"", flags=["END_STREAM"]).serialize())
        assert await client.body(await client.ask("/")) == b"hello"


async def test_no_stream_is_reset_that_was_read_to_its_end() -> None:
    async with open_server(hello) as server, connected(server) as client:
        stream = await client.ask("/", method="POST", ends=False)
        await client.upload(stream, bytes(10), ends=True)
        await client.body(stream)
        await client.ping()
        assert not client.of(h2.events.StreamReset)


async def test_an_upload_that_stalls_is_answered() -> None:
    async def read(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, await read_body(receive))

    async with open_server(bounded(read), stall_timeout=0.2) as server, connected(server) as client:
        stream = await client.ask("/", method="POST", ends=False)
        await client.upload(stream, b"begun")
        assert (await client.head(stream))[":status"] == "408"
        assert b"request-timeout" in await client.body(stream)
        assert await client.reset(stream) == CODES.NO_ERROR
        await client.ping()


async def test_a_body_may_end_with_trailers() -> None:
    async def read(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, await read_body(receive))

    async with open_server(read) as server, connected(server) as client:
        stream = await client.ask("/", method="POST", ends=False)
        await client.upload(stream, b"body")
        client.h2.send_headers(stream, [("digest", "x")], end_stream=True)
        await client.flush()
        assert await client.body(stream) == b"body"


# -- downloads ---------------------------------------------------------------------------------------------------------


class Endless:
    """``/endless`` sends for ever, in pieces of 64 KiB; all else is answered at once."""

    def __init__(self) -> None:
        self.sent = 0
        self.ended = trio.Event()
        self.reasons: list[str | None] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/endless":
            await hello(scope, receive, send)
            return
        try:
            await start(send)
            while True:
                await part(send, bytes(64 * 1024))
                self.sent += 1
        finally:
            request = current_request.get(None)
            self.reasons.append(None if request is None else request.reason)
            self.ended.set()


async def test_of_an_answer_without_credit_little_is_held() -> None:
    endless = Endless()
    async with open_server(bounded(endless)) as server, connected(server) as client:
        stream = await client.ask("/endless")
        await client.head(stream)
        with trio.move_on_after(0.5):
            while True:
                await client.read()
        assert endless.sent <= 2  # the window's, and what waits behind it
        assert sum(len(event.data or b"") for event in client.of(h2.events.DataReceived)) == WINDOW
        assert not endless.ended.is_set()
        client.h2.increment_flow_control_window(WINDOW)
        client.h2.increment_flow_control_window(WINDOW, stream)
        await client.flush()
        await client.until(lambda: len(client.of(h2.events.DataReceived)) > 5)
        with trio.move_on_after(0.2):
            while True:
                await client.read()
        assert sum(len(event.data or b"") for event in client.of(h2.events.DataReceived)) == 2 * WINDOW


@pytest.mark.parametrize("with_boundary", [True, False])
async def test_a_stream_whose_client_gives_no_credit_is_cut_and_no_other(with_boundary: bool) -> None:
    endless = Endless()
    app = bounded(endless) if with_boundary else endless
    async with open_server(app, stall_timeout=0.3) as server, connected(server) as client:
        stream = await client.ask("/endless")
        assert await client.reset(stream) == CODES.INTERNAL_ERROR
        await endless.ended.wait()
        client.h2.increment_flow_control_window(WINDOW)
        assert await client.body(await client.ask("/")) == b"hello"


@over_both
async def test_a_client_that_gives_credit_but_does_not_read_is_cut(tls: bool) -> None:
    endless = Endless()
    async with open_server(bounded(endless), tls=tls, stall_timeout=0.3) as server, server.connect() as raw:
        client = Http2(raw, LARGEST)
        await client.open()
        client.h2.increment_flow_control_window(LARGEST - WINDOW)
        await client.ask("/endless")
        await endless.ended.wait()
        await server.all_gone()


async def test_the_deadline_of_a_stream_without_credit_leaves_the_others_alone() -> None:
    endless, late = Endless(), trio.current_time() + 0.3
    async with open_server(bounded(endless)) as server, connected(server) as client:
        lasting = await client.ask("/endless")
        stream = await client.ask("/endless", ("sluice-deadline", "0.3"))
        assert await client.reset(stream) == CODES.INTERNAL_ERROR
        assert trio.current_time() >= late
        assert endless.reasons == [None]  # the clock ended it, nobody else
        client.h2.increment_flow_control_window(WINDOW)
        client.h2.increment_flow_control_window(WINDOW, lasting)
        before = len(client.of(h2.events.DataReceived, lasting))
        await client.flush()
        await client.until(lambda: len(client.of(h2.events.DataReceived, lasting)) > before)
        assert not client.of(h2.events.StreamReset, lasting)


@pytest.mark.parametrize("wanted", [True, False])
async def test_trailers_are_sent_to_who_wants_them(wanted: bool) -> None:
    async def trailing(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, trailers=True)
        await end(send, b"body")
        await send({"type": "http.response.trailers", "headers": [(b"digest", b"x")]})

    fields = [("te", "trailers")] if wanted else []
    async with open_server(trailing) as server, connected(server) as client:
        stream = await client.ask("/", *fields)
        assert await client.body(stream) == b"body"
        trailers = [dict(event.headers or []) for event in client.of(h2.events.TrailersReceived, stream)]
        assert trailers == ([{"digest": "x"}] if wanted else [])


# -- ends --------------------------------------------------------------------------------------------------------------


async def test_whoever_resets_a_stream_is_noticed_at_once() -> None:
    leaving = Leaving()
    async with open_server(leaving) as server, connected(server) as client:
        stream = await client.ask("/", method="POST", ends=False)
        await client.upload(stream, bytes(WINDOW))
        await leaving.begun.wait()
        before = trio.current_time()
        client.h2.reset_stream(stream)
        await client.flush()
        await leaving.told.wait()
        assert leaving.at - before < 0.05
        await client.ping()
        assert leaving.called == 1


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@over_both
async def test_whoever_leaves_is_noticed_at_once_on_every_stream(tls: bool, how: Any) -> None:
    waiting, told = 10, list[float]()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await trio.sleep_forever()
        finally:
            told.append(trio.current_time())

    async with open_server(bounded(wait), tls=tls) as server, server.connect() as raw:
        client = Http2(raw)
        await client.open()
        for _ in range(waiting):
            await client.ask("/")
        await client.ping()
        before = trio.current_time()
        raw.leave(how)
        await server.all_gone()
        assert len(told) == waiting
        assert max(told) - before < 0.05


async def test_whoever_has_left_is_no_longer_sent_to() -> None:
    """A route that sends for ever, and that nobody cancels, ends too."""
    ended = trio.Event()

    async def send_on(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await start(send)
            while True:
                await part(send, bytes(1024))
        except OSError:
            ended.set()

    async with open_server(send_on) as server, connected(server) as client:
        stream = await client.ask("/")
        await client.head(stream)
        client.h2.reset_stream(stream)
        await client.flush()
        await ended.wait()


async def test_a_large_body_in_one_message_does_not_keep_a_client_that_leaves_from_being_noticed() -> None:
    ended = trio.Event()

    async def send_much(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await answer(send, bytes(32 * 1024 * 1024))
        finally:
            ended.set()

    with structlog.testing.capture_logs() as logs:
        async with open_server(bounded(send_much)) as server, connected(server) as client:
            stream = await client.ask("/")
            await client.head(stream)
            client.client.leave("half-close")
            await ended.wait()
    assert [line["outcome"] for line in logs if line["event"] == "request"] == ["disconnected"]


async def test_an_answer_that_was_taken_whole_is_no_disconnect() -> None:
    with structlog.testing.capture_logs() as logs:
        async with open_server(bounded(hello)) as server:
            for _ in range(50):
                async with connected(server) as client:
                    await client.body(await client.ask("/"))
                    client.client.leave("reset")
    outcomes = Counter(line["outcome"] for line in logs if line["event"] == "request")
    assert outcomes == {"ok": 50}


async def test_who_has_all_that_was_announced_may_leave_before_the_end_is_said() -> None:
    leaving, done = Leaving(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"][PEER].when_gone(leaving._tell)
        await start(send, (b"content-length", b"5"))
        await part(send, b"hello")
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"
        with pytest.raises(OSError, match="left"):
            await end(send)
        done.set()

    async with open_server(app) as server, connected(server) as client:
        stream = await client.ask("/")
        await client.until(lambda: client.of(h2.events.DataReceived, stream))
        client.client.leave("close")
        await done.wait()
    assert leaving.called == 0


async def test_a_drain_says_goodbye_to_idle_connections() -> None:
    async with open_server(hello) as server, connected(server) as client:
        assert await client.body(await client.ask("/")) == b"hello"
        server.gate.start()
        assert await client.goodbye() == CODES.NO_ERROR


async def test_a_drain_lets_streams_finish_and_refuses_new_ones() -> None:
    slow = Slow()
    async with open_server(slow) as server, connected(server) as client:
        stream = await client.ask("/slow")
        await client.ping()
        server.gate.start()
        refused = 0
        for _ in range(100):
            refused = await client.ask("/")
            await client.ping()
            if client.of(h2.events.StreamReset, refused):
                break
            await trio.sleep(0.01)
        assert await client.reset(refused) == CODES.REFUSED_STREAM
        slow.allowed.close()
        assert await client.body(stream) == b"slow"
        assert await client.goodbye() == CODES.NO_ERROR


# -- abuse -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["CONNECT", "connect"])
async def test_tunnels_are_refused_without_harm(method: str) -> None:
    async with open_server(hello) as server, connected(server) as client:
        client.h2.send_headers(1, [(":method", method), (":authority", "sluice:1")] if method == "CONNECT" else [
            (":method", method), (":authority", "sluice"), (":path", "/"), (":scheme", "http")
        ])  # fmt: skip
        await client.flush()
        assert await client.reset(1) == CODES.REFUSED_STREAM
        assert await client.body(await client.ask("/")) == b"hello"


async def test_websockets_are_not_offered_and_refused_without_harm() -> None:
    async with open_server(hello) as server, connected(server) as client:
        await client.until(lambda: client.of(h2.events.RemoteSettingsChanged))
        assert not client.h2.remote_settings.enable_connect_protocol
        head = [(":method", "CONNECT"), (":protocol", "websocket"), (":path", "/"), (":scheme", "http")]
        client.h2.send_headers(1, [*head, (":authority", "sluice"), ("sec-websocket-version", "13")])
        await client.flush()
        assert await client.reset(1) == CODES.REFUSED_STREAM
        assert await client.body(await client.ask("/")) == b"hello"


async def test_many_streams_are_served_side_by_side() -> None:
    ready = trio.Event()
    running = 0

    async def together(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal running
        running += 1
        if running == 100:
            ready.set()
        await ready.wait()
        await answer(send, scope["path"].encode() * 1000)

    async with open_server(together) as server, connected(server, LARGEST) as client:
        client.h2.increment_flow_control_window(LARGEST - WINDOW)
        await client.until(lambda: client.of(h2.events.RemoteSettingsChanged))
        streams = [await client.ask(f"/{number}") for number in range(100)]
        for number, stream in enumerate(streams):
            assert await client.body(stream) == f"/{number}".encode() * 1000


async def test_streams_that_were_reset_leave_nothing_behind() -> None:
    """More of them than Hypercorn's tree of priorities has room for."""
    async with open_server(bounded(Endless())) as server, connected(server) as client:
        for _ in range(1500):
            stream = await client.ask("/endless")
            client.h2.reset_stream(stream)
            if stream % 100 == 1:
                await client.ping()
        await client.flush()
        client.h2.increment_flow_control_window(LARGEST - WINDOW)
        assert await client.body(await client.ask("/")) == b"hello"


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"", length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: sluice\r\n\r\n" * 10, id="HTTP/1.1"),
        pytest.param(_frame(0, 0, 1, b"data"), id="data for no stream"),
        pytest.param(_frame(0, 0, 0, b"data"), id="data for the connection"),
        pytest.param(_frame(1, 4, 1, b"\xff" * 40), id="a head that cannot be unpacked"),
        pytest.param(_frame(1, 4, 2, b"\x82\x86\x84"), id="a stream of the server's"),
        pytest.param(_frame(1, 0, 1, b"\x82") + _frame(6, 0, 0, bytes(8)), id="a head that is interrupted"),
        pytest.param(_frame(4, 0, 0, bytes(5)), id="settings cut short"),
        pytest.param(_frame(4, 0, 0, b"\x00\x05\x00\x00\x00\x01"), id="a setting that is not allowed"),
        pytest.param(_frame(5, 4, 1, bytes(4) + b"\x82"), id="a push by the client"),
        pytest.param(_frame(6, 0, 0, bytes(3)), id="a ping cut short"),
        pytest.param(_frame(8, 0, 0, bytes(4)), id="no credit"),
        pytest.param(_frame(8, 0, 0, b"\x7f\xff\xff\xff"), id="too much credit"),
        pytest.param(_frame(9, 4, 1, b"\x82"), id="the rest of no head"),
        pytest.param(_frame(0, 0, 1, b"", length=2**24 - 1), id="a frame that is too long"),
    ],
)
async def test_garbage_ends_its_connection_only(garbage: bytes) -> None:
    with structlog.testing.capture_logs() as logs:
        async with open_server(hello) as server, connected(server) as other:
            assert await other.body(await other.ask("/")) == b"hello"
            async with connected(server) as client:
                await client.ping()
                await client.client.send(garbage)
                assert await client.goodbye() != CODES.NO_ERROR
            assert await other.body(await other.ask("/")) == b"hello"
    assert logs == []


async def test_frames_that_mean_nothing_here_are_skipped() -> None:
    async with open_server(hello) as server, connected(server) as client:
        await client.client.send(_frame(0xFA, 0, 0, b"unknown") + _frame(2, 0, 1, b"\x00\x00\x00\x00\x10"))
        assert await client.body(await client.ask("/")) == b"hello"


async def test_priorities_are_heeded_no_more() -> None:
    """Neither do they count as streams, nor is one an error that is about the stream itself."""
    idle = b"".join(_frame(2, 0, 2 * number + 1, b"\0\0\0\0\x10") for number in range(1, 2000))
    async with open_server(bounded(hello)) as server, connected(server) as client:
        await client.client.send(idle + _frame(2, 0, 1, b"\0\0\0\x01\x10"))
        await client.ping()
        for stream in (1, 3):
            client.h2.send_headers(stream, ASKED, end_stream=True, priority_weight=7, priority_depends_on=stream + 90)
            await client.flush()
            assert await client.body(stream) == b"hello"
        assert await client.body(await client.ask("/")) == b"hello"


# -- too many streams --------------------------------------------------------------------------------------------------


async def test_a_stream_too_many_is_refused_and_the_others_are_answered() -> None:
    slow = Slow()
    async with open_server(slow) as server, connected(server) as client:
        streams = [_begun(client, "/slow", f"value-{number}") for number in range(150)]
        await client.client.send(client.h2.data_to_send())  # in one go, before the settings of the server are seen
        for stream in streams[100:]:
            assert await client.reset(stream) == CODES.REFUSED_STREAM
        # Trailers and a body that were on their way to one that is refused.
        await client.client.send(_frame(0, 0, streams[-1], b"data") + _frame(1, 5, streams[-1], b"\x82"))
        await client.ping()
        slow.allowed.close()
        for stream in streams[:100]:
            assert await client.body(stream) == b"slow"
        assert not client.of(h2.events.ConnectionTerminated)


async def test_the_fields_of_a_refused_stream_are_known_to_later_requests() -> None:
    slow = Slow()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await slow(scope, receive, send)
        else:
            await answer(send, dict(scope["headers"])[b"x-value"])

    async with open_server(app) as server, connected(server) as client:
        streams = [_begun(client, "/slow", "early") for _ in range(100)]
        refused = _begun(client, "/other", "late")
        await client.flush()
        assert await client.reset(refused) == CODES.REFUSED_STREAM
        slow.allowed.close()
        for stream in streams:
            await client.body(stream)
        assert await client.body(await client.ask("/other", ("x-value", "late"))) == b"late"


def _begun(client: Http2, path: str, value: str) -> int:
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, [*ASKED[:1], (":path", path), *ASKED[2:], ("x-value", value)], end_stream=True)
    return stream


# -- heads that are not complete ---------------------------------------------------------------------------------------

_BEGUN = {
    "no continuation": _frame(1, 1, 3, b"\x82\x86\x84"),
    "a continuation that is not the last": _frame(1, 1, 3, b"\x82") + _frame(9, 0, 3, b"\x86"),
    "a part of a frame": _frame(1, 5, 3, b"\x82\x86\x84", length=100),
    "a part of a continuation": _frame(1, 1, 3, b"\x82") + _frame(9, 4, 3, b"\x86", length=100),
}


@over_both
@pytest.mark.parametrize("begun", list(_BEGUN.values()), ids=list(_BEGUN))
async def test_a_head_that_does_not_come_to_its_end_ends_its_connection(begun: bytes, tls: bool) -> None:
    slow = Slow()
    async with open_server(bounded(slow), tls=tls, header_timeout=0.1) as server, connected(server) as client:
        await client.ask("/slow")  # for the connection is not idle
        await client.ping()
        await client.client.send(begun)
        assert await client.goodbye() == CODES.ENHANCE_YOUR_CALM
        await slow.gone.wait()
        async with connected(server) as other:
            assert await other.body(await other.ask("/")) == b"hello"


async def test_each_head_has_its_own_time_and_what_else_is_slow_has_more() -> None:
    limit = 0.5
    async with open_server(echo, header_timeout=limit) as server, connected(server) as client:
        stream = await client.ask("/", method="POST", ends=False)
        until = trio.current_time() + 2 * limit
        while trio.current_time() < until:
            other = client.h2.get_next_available_stream_id()
            client.h2.send_headers(other, ASKED, end_stream=True)
            head = client.h2.data_to_send()
            await client.client.send(head[:-1])
            await trio.sleep(limit / 10)
            await client.client.send(head[-1:])
            assert await client.body(other) == b"GET / "
        # A part of a body is no head.
        await client.client.send(_frame(0, 1, stream, b"", length=4)[:9])
        await trio.sleep(2 * limit)
        await client.client.send(b"data")
        assert await client.body(stream) == b"POST / data"


# -- floods ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(_frame(8, 0, 0, b"\0\0\0\x01"), id="credit"),
        pytest.param(_frame(4, 0, 0), id="settings"),
        pytest.param(_frame(2, 0, 1, b"\0\0\0\0\x10"), id="priorities"),
        pytest.param(_frame(0, 0, 1), id="empty data"),
    ],
)
async def test_a_flood_of_small_frames_leaves_the_others_their_turn(
    frame: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = 0
    handled: Counter[int] = Counter()
    receive = Http2Connection.receive_data

    def spy(self: Http2Connection, data: Any) -> list[h2.events.Event]:
        handled[turn] += len(data)
        return receive(self, data)

    monkeypatch.setattr(Http2Connection, "receive_data", spy)
    flood = frame * (64 * 1024 // len(frame))
    async with (
        open_server(bounded(Slow())) as server,
        connected(server) as client,
        trio.open_nursery() as nursery,
    ):
        await client.ask("/slow", method="POST", ends=False)
        await client.ping()
        nursery.start_soon(client.client.send, flood)
        while handled.total() < len(flood):
            await trio.lowlevel.checkpoint()
            turn += 1
        assert max(handled.values()) <= 8 * 1024
        await client.ping()
