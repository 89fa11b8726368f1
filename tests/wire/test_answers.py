"""What applications answer, as it comes out: framing, files, trailers, and what is no answer."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
import trio.testing

from app.errors import NotFound
from app.wire.asgi import PEER, WHOLE, ZERO_COPY, Message, Receive, Scope, Send
from app.wire.response import BadAnswer
from tests.wire.serving import (
    GET,
    MUCH,
    answer,
    end,
    get,
    open_descriptors,
    open_server,
    part,
    post,
    start,
)

over_both = pytest.mark.parametrize("tls", [False, True], ids=["cleartext", "TLS"])

_HEAD = b"HEAD" + GET[3:]


# -- framing -----------------------------------------------------------------------------------------------------------


@over_both
async def test_parts_of_unknown_length_come_in_chunks(tls: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        for data in (b"one", b"", b"two" * 100_000):
            await part(send, data)
        await end(send, b"last")

    async with open_server(app, tls=tls) as server, server.connect() as client:
        for _ in range(2):
            answered = await client.ask(GET)
            assert answered.fields[b"transfer-encoding"] == b"chunked"
            assert answered.body == b"one" + b"two" * 100_000 + b"last"


@over_both
async def test_a_large_answer_comes_whole(tls: bool) -> None:
    piece = bytes(range(256)) * 1024

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/parts":
            await start(send, (b"content-length", b"%d" % (64 * len(piece))))
            for _ in range(64):
                await part(send, piece)
            await end(send)
        else:
            await answer(send, piece * 64)

    async with open_server(app, tls=tls) as server, server.connect() as client:
        for path in ("/parts", "/whole"):
            answered = await client.ask(get(path))
            assert answered.body == piece * 64
            assert not answered.closes


@pytest.mark.parametrize("size", [3, 100_000])
async def test_an_answer_in_one_message(size: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": WHOLE, "status": 201, "headers": [(b"x-field", b"1")], "body": bytes(size)})

    async with open_server(app) as server, server.connect() as client:
        for _ in range(2):
            answered = await client.ask(GET)
            assert (answered.status, answered.body) == (201, bytes(size))
            assert answered.fields[b"content-length"] == b"%d" % size
            assert answered.fields[b"x-field"] == b"1"
        assert (await client.ask(_HEAD)).fields[b"content-length"] == b"%d" % size


@over_both
async def test_head_says_what_get_would_and_has_no_body(tls: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        match scope["path"]:
            case "/length":
                await answer(send, b"12345")
            case "/chunks":
                await start(send)
                await part(send, b"12345")
                await end(send)
            case _:
                await answer(send, b"", (b"content-length", b"5"))

    async with open_server(app, tls=tls) as server, server.connect() as client:
        for path in ("/length", "/chunks", "/left out"):
            answered = await client.ask(b"HEAD" + get(path.partition(" ")[0])[3:])
            if path == "/chunks":
                assert answered.fields[b"transfer-encoding"] == b"chunked"
            else:
                assert answered.fields[b"content-length"] == b"5"
        assert (await client.ask(get("/length"))).body == b"12345"


@pytest.mark.parametrize("status", [204, 304])
async def test_what_has_no_body_has_none(status: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"what the application says all the same", status=status)

    async with open_server(app) as server, server.connect() as client:
        for _ in range(2):
            answered = await client.ask(GET)
            assert (answered.status, answered.body) == (status, b"")


@over_both
async def test_trailers_go_to_who_takes_them(tls: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, (b"trailer", b"X-Sum"), (b"content-length", b"4"), trailers=True)
        await part(send, b"bo")
        await end(send, b"dy")
        await send({"type": "http.response.trailers", "headers": [(b"X-One", b"1")], "more_trailers": True})
        await send({"type": "http.response.trailers", "headers": [(b"X-Sum", b"2")]})

    async with open_server(app, tls=tls) as server, server.connect() as client:
        answered = await client.ask(get("/", b"TE: trailers", b"Connection: TE"))
        assert answered.body == b"body"
        assert answered.trailers == [(b"x-one", b"1"), (b"x-sum", b"2")]
        answered = await client.ask(GET)
        assert (answered.body, answered.trailers) == (b"body", [])
        assert answered.fields[b"content-length"] == b"4"
        assert (await client.ask(_HEAD)).complete


async def test_trailers_are_offered_to_who_takes_them() -> None:
    offered: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        offered.append("http.response.trailers" in scope["extensions"])
        await answer(send)

    async with open_server(app) as server, server.connect() as client:
        await client.ask(get("/", b"TE: trailers", b"Connection: TE"))
        await client.ask(GET)
    assert offered == [True, False]


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_who_sends_without_pause_does_not_hold_up_another(framing: str) -> None:
    """A client on this machine takes it all: none of its writes ever waits."""
    ended = False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal ended
        if scope["path"] == "/one":
            await answer(send, b"ended" if ended else b"")
            return
        await start(send, *([(b"content-length", b"2000000")] if framing == "length" else []))
        for _ in range(2000):
            await part(send, bytes(1000))
        ended = True
        await end(send)

    async with open_server(app) as server, server.connect(8 << 20) as many, server.connect() as one:
        await one.ask(get("/one"))
        await many.send(GET)
        assert (await one.ask(get("/one"))).body == b""
        assert len((await many.answer()).body) == 2_000_000


async def test_who_sends_to_a_head_for_ever_ends_with_its_client() -> None:
    ended = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET":
            await answer(send, b"served")
            return
        await start(send)
        with pytest.raises(OSError, match="left"):
            for _ in range(100_000):  # for ever, unless the test fails
                await part(send, b"unheard")
        ended.set()

    async with open_server(app) as server, server.connect() as client:
        await client.send(_HEAD)
        assert (await server.ask(GET)).body == b"served"
        client.leave("close")
        await ended.wait()


# -- files -------------------------------------------------------------------------------------------------------------


def _content(size: int) -> bytes:
    return bytes(range(251)) * (size // 251 + 1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(_content(MUCH))
    return path


async def _send_file(send: Send, path: Path, offset: int, count: int, **more: Any) -> None:
    with path.open("rb") as opened:
        await send({"type": ZERO_COPY, "file": opened, "offset": offset, "count": count, **more})


@pytest.mark.parametrize(("offset", "count"), [(0, 1_000_000), (0, 9_000_000), (12_345, 4_567_890), (7, 1), (0, 0)])
@pytest.mark.parametrize("announced", [True, False])
async def test_the_kernel_sends_a_file_or_a_range_of_it(offset: int, count: int, announced: bool, file: Path) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert ZERO_COPY in scope["extensions"]
        await start(send, *([(b"content-length", b"%d" % count)] if announced else []))
        await _send_file(send, file, offset, count)

    async with open_server(app) as server, server.connect(1 << 20) as client:
        for _ in range(2):
            answered = await client.ask(GET)
            assert answered.body == _content(MUCH)[offset : offset + count]
            assert answered.fields[b"content-length"] == b"%d" % count
        assert (await client.ask(_HEAD)).body == b""


async def test_a_file_goes_between_other_parts(file: Path) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await part(send, b"before")
        await _send_file(send, file, 0, 100_000, more_body=True)
        await _send_file(send, file, 5, 10, more_body=scope["path"] != "/last")
        if scope["path"] != "/last":
            await end(send, b"after")

    async with open_server(app) as server, server.connect() as client:
        for path in ("/", "/last"):
            body = (await client.ask(get(path))).body
            content = _content(MUCH)[:100_000]
            assert body == b"before" + content + content[5:15] + (b"after" if path == "/" else b"")


async def test_a_file_s_descriptor_is_enough(file: Path) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        descriptor = os.open(file, os.O_RDONLY)
        try:
            await send({"type": ZERO_COPY, "file": descriptor, "count": 100})
        finally:
            os.close(descriptor)

    async with open_server(app) as server:
        assert (await server.ask(GET)).body == _content(MUCH)[:100]


async def test_over_tls_files_are_not_offered() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert ZERO_COPY not in scope["extensions"]
        await answer(send, b"read")

    async with open_server(app, tls=True) as server:
        assert (await server.ask(GET)).body == b"read"


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("announced", [True, False], ids=["announced", "until its end"])
async def test_a_file_that_has_become_shorter_is_cut(version: bytes, announced: bool, file: Path) -> None:
    failed = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        fields = [(b"content-length", b"%d" % MUCH)] if announced else []
        await start(send, *fields)
        os.truncate(file, 1_000_000)
        try:
            await _send_file(send, file, 0, MUCH, more_body=True)
        except EOFError:
            failed.set()
            raise
        await end(send)

    async with open_server(app) as server, server.connect(1 << 20) as client:
        with structlog.testing.capture_logs() as logs:
            answered = await client.ask(GET.replace(b"1.1", version))
            assert not answered.complete
            assert len(answered.body) <= 1_000_000
            assert await client.rest() == b""
        assert failed.is_set()
        assert [line["event"] for line in logs] == ["application failed"]


async def _download(app: Callable[[Send], Awaitable[None]], act: Callable[..., Awaitable[None]], **more: Any) -> None:
    """A client that asks and reads nothing; the application has ended and no descriptor is left after ``act``."""
    begun, ended = trio.Event(), trio.Event()
    scopes: list[trio.CancelScope] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope["extensions"][PEER].scope)
        begun.set()
        try:
            await app(send)
        finally:
            ended.set()

    async with open_server(application, **more) as server:
        before = open_descriptors()
        async with server.connect() as client:
            await client.send(GET)
            await begun.wait()
            await trio.sleep(0.05)
            assert not ended.is_set()
            await act(client, scopes[0])
            with trio.fail_after(2):
                await ended.wait()
                await server.all_gone()
        assert open_descriptors() == before
        assert server.connections.readiness._watched == {}


async def _whole_file(path: Path, send: Send) -> None:
    await start(send, (b"content-length", b"%d" % MUCH))
    await _send_file(send, path, 0, MUCH)


async def test_a_client_that_leaves_in_mid_file(file: Path) -> None:
    for how in ("close", "reset", "half-close"):

        async def act(client: Any, scope: trio.CancelScope, how: str = how) -> None:
            client.leave(how)
            if how == "half-close":  # which is told, and ends what waits for it
                scope.cancel()

        await _download(lambda send: _whole_file(file, send), act)


async def test_a_client_that_stalls_in_mid_file_is_cut(file: Path) -> None:
    async def act(client: Any, _: trio.CancelScope) -> None:
        await trio.sleep(0.3)
        assert len(await client.rest()) < MUCH

    with structlog.testing.capture_logs() as logs:
        await _download(lambda send: _whole_file(file, send), act, stall_timeout=0.2)
    assert {"event": "connection stalled", "seconds": 0.2, "log_level": "info"} in logs


async def test_a_file_that_is_cancelled_while_the_client_does_not_read(file: Path) -> None:
    async def act(client: Any, scope: trio.CancelScope) -> None:
        scope.cancel()
        assert len(await client.rest()) < MUCH

    await _download(lambda send: _whole_file(file, send), act)


async def test_a_file_that_is_cancelled_while_a_thread_sends_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread is waited for: its descriptors are open for as long as it uses them."""
    sending, go_on = threading.Event(), threading.Event()
    sendfile = os.sendfile

    def slow(out: int, into: int, offset: int, count: int) -> int:
        sending.set()
        assert go_on.wait(10)
        return sendfile(out, into, offset, count)

    monkeypatch.setattr(os, "sendfile", slow)
    ended: list[bool] = []

    async def app(send: Send) -> None:
        try:
            await _whole_file(file, send)
        finally:
            ended.append(go_on.is_set())

    async def act(client: Any, scope: trio.CancelScope) -> None:
        assert await trio.to_thread.run_sync(sending.wait, 10)
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert ended == []
        go_on.set()

    await _download(app, act)
    assert ended == [True]


@over_both
async def test_a_reader_that_is_slow_is_not_one_that_stalls(tls: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, bytes(3 * 1024 * 1024))

    received = 0
    async with open_server(app, tls=tls, stall_timeout=0.3) as server, server.connect() as client:
        await client.send(GET)
        began = trio.current_time()
        while trio.current_time() < began + 0.7:
            received += len(await client.receive(16_384))
            await trio.sleep(0.01)
        while received < 3 * 1024 * 1024:
            data = await client.receive()
            assert data, "it was cut"
            received += len(data)


@over_both
async def test_a_reader_that_stalls_is_cut(tls: bool) -> None:
    ended = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(OSError, match="left"):
            await answer(send, bytes(MUCH))
        ended.set()

    async with open_server(app, tls=tls, stall_timeout=0.2) as server, server.connect() as client:
        await client.send(GET)
        await ended.wait()
        assert not (await client.answer()).complete


# -- what is no answer -------------------------------------------------------------------------------------------------


async def _raise(send: Send) -> None:
    raise ValueError("no client's business")


async def _return(send: Send) -> None:
    pass


async def _only_start(send: Send) -> None:
    await start(send, (b"x-field", b"never sent"))


async def _start_and_raise(send: Send) -> None:
    await start(send, (b"x-field", b"never sent"))
    raise ValueError


def _with(*fields: tuple[bytes, bytes], body: bytes = b"", status: int = 200) -> Callable[[Send], Awaitable[None]]:
    async def app(send: Send) -> None:
        await answer(send, body, *fields, status=status)

    return app


def _whole_with(*fields: tuple[bytes, bytes], body: bytes = b"") -> Callable[[Send], Awaitable[None]]:
    async def app(send: Send) -> None:
        await send({"type": WHOLE, "status": 200, "headers": fields, "body": body})

    return app


async def _file_too_long(send: Send) -> None:
    await start(send, (b"content-length", b"1"))
    await _send_file(send, Path(__file__), 0, 2)


_NO_ANSWERS = {
    "raises": _raise,
    "returns": _return,
    "only a start": _only_start,
    "a start, then raises": _start_and_raise,
    "a line break in a value": _with((b"x-field", b"a\r\nX-Injected: 1")),
    "LF in a value": _with((b"x-field", b"a\nX-Injected: 1")),
    "CR in a value": _with((b"x-field", b"a\rX-Injected: 1")),
    "NUL in a value": _with((b"x-field", b"a\0")),
    "a line break in a name": _with((b"x-field: 1\r\nX-Injected", b"1")),
    "two lengths": _with((b"content-length", b"1"), (b"content-length", b"2"), body=b"a"),
    "a length that is none": _with((b"content-length", b"1, 1"), body=b"a"),
    "a negative length": _with((b"content-length", b"-1")),
    "too long": _with((b"content-length", b"1"), body=b"X-Injected: 1"),
    "too short": _with((b"content-length", b"100"), body=b"X-Injected: 1"),
    "whole, too long": _whole_with((b"content-length", b"1"), body=b"X-Injected: 1"),
    "whole, a line break": _whole_with((b"x-field", b"a\r\nX-Injected: 1")),
    "a file, too long": _file_too_long,
    "an interim status": _with(status=103),
    "no bytes": _with(("x-field", "text")),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("kind", _NO_ANSWERS)
async def test_what_cannot_be_sent_is_told_as_500(kind: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await _NO_ANSWERS[kind](send)
        else:
            await answer(send, b"served")

    with structlog.testing.capture_logs() as logs:
        async with open_server(app) as server:
            async with server.connect() as client:
                await client.send(GET + get("/more"))
                answered = await client.answer()
                assert answered.status == 500
                assert answered.problem["error"] == "Internal server error"
                assert answered.problem["request_id"].encode() == answered.fields[b"x-request-id"]
                assert answered.closes
                assert answered.fields.keys().isdisjoint({b"x-field", b"x-injected"})
                assert b"Injected" not in answered.body
                assert b"business" not in answered.body
                assert await client.ending() == "fin"
            assert (await server.ask(get("/more"))).body == b"served"
    assert ("application failed" in {line["event"] for line in logs}) == (kind not in {"returns", "only a start"})


async def test_to_head_no_error_has_a_body() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    async with open_server(app) as server, server.connect() as client:
        answered = await client.ask(_HEAD)
        assert answered.status == 500
        assert int(answered.fields[b"content-length"]) > 0
        assert await client.ending() == "fin"


async def test_an_error_with_an_answer_of_its_own_is_told_as_that() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise NotFound("nothing here")

    with structlog.testing.capture_logs() as logs:
        async with open_server(app) as server:
            answered = await server.ask(GET)
    assert (answered.status, answered.problem["detail"]) == (404, "nothing here")
    assert [line["event"] for line in logs if line["log_level"] == "error"] == []


async def test_after_a_bad_answer_another_can_be_given() -> None:
    """An application's own error handler may say what went wrong."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, (b"x-field", b"a\nb"))
        with pytest.raises(BadAnswer):
            await part(send, b"chunked")
        await answer(send, b"sorry", status=500)

    async with open_server(app) as server, server.connect() as client:
        for _ in range(2):
            answered = await client.ask(GET)
            assert (answered.status, answered.body) == (500, b"sorry")
            assert not answered.closes


async def _too_much(send: Send) -> None:
    await start(send, (b"content-length", b"5"))
    await part(send, b"123")
    await part(send, b"456")


async def _too_little(send: Send) -> None:
    await start(send, (b"content-length", b"5"))
    await part(send, b"123")
    await end(send)


async def _fails_in_the_middle(send: Send) -> None:
    await start(send)
    await part(send, b"123")
    raise ValueError


async def _returns_in_the_middle(send: Send) -> None:
    await start(send)
    await part(send, b"123")


async def _bad_trailers(send: Send) -> None:
    await start(send, trailers=True)
    await end(send, b"123")
    await send({"type": "http.response.trailers", "headers": [(b"x-field", b"a\r\nb")]})


async def _no_trailers(send: Send) -> None:
    await start(send, trailers=True)
    await end(send, b"123")


@over_both
@pytest.mark.parametrize(
    "app", [_too_much, _too_little, _fails_in_the_middle, _returns_in_the_middle, _bad_trailers, _no_trailers]
)
async def test_an_answer_that_fails_after_it_began_is_cut(app: Callable[[Send], Awaitable[None]], tls: bool) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await app(send)

    async with open_server(application, tls=tls) as server, server.connect() as client:
        await client.send(get("/", b"TE: trailers", b"Connection: TE") + GET)
        answered = await client.answer()
        assert (answered.status, answered.body) == (200, b"123")
        assert not answered.complete
        assert await client.rest() == b""


async def test_messages_out_of_order_are_the_application_s_mistake() -> None:
    wrong: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def refused(message: Message) -> None:
            with pytest.raises(RuntimeError, match="at this point"):
                await send(message)
            wrong.append(message)

        await refused({"type": "http.response.body", "body": b"no start"})
        await refused({"type": "http.response.trailers"})
        await refused({"type": "http.response.unheard"})
        await start(send)
        await end(send, b"whole")
        await refused({"type": "http.response.start", "status": 200})
        await refused({"type": "http.response.body", "body": b"more"})
        await refused({"type": WHOLE, "status": 200, "headers": [], "body": b"more"})

    async with open_server(app) as server, server.connect() as client:
        for _ in range(2):
            assert (await client.ask(GET)).body == b"whole"
    assert len(wrong) == 12


# -- what ends in the middle -------------------------------------------------------------------------------------------


@over_both
@pytest.mark.parametrize("length", [True, False], ids=["of a length", "in chunks"])
async def test_after_a_write_that_was_cancelled_nothing_else_is_written(length: bool, tls: bool) -> None:
    done: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        fields = [(b"content-length", b"%d" % (MUCH + 9))] if length else []
        await start(send, *fields)
        with trio.move_on_after(0.1) as late:
            await part(send, bytes(MUCH))
        assert late.cancelled_caught
        with pytest.raises(OSError, match="left"):
            await end(send, b"forbidden")
        done.append("cancelled")

    async with open_server(app, tls=tls) as server, server.connect() as client:
        await client.send(GET + get("/more"))
        await trio.sleep(0.15)
        received = await client.rest()
        assert b"forbidden" not in received
        assert received.count(b"HTTP/1.1 ") == 1
        assert len(received) < MUCH
    assert done == ["cancelled"]


@over_both
async def test_the_scope_of_a_peer_ends_its_request_and_its_connection(tls: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        peer = scope["extensions"][PEER]
        await trio.lowlevel.checkpoint()
        peer.scope.cancel()
        await trio.sleep_forever()

    async with open_server(app, tls=tls) as server, server.connect() as client:
        await client.send(GET + get("/more"))
        assert await client.rest() == b""
        await server.all_gone()


async def test_who_is_cancelled_may_still_answer() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"][PEER].scope.cancel()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await answer(send, b"too late", status=504)
            raise

    async with open_server(app) as server, server.connect() as client:
        await client.send(post(b"x") + get("/more"))
        answered = await client.answer("POST")
        assert (answered.status, answered.body, answered.complete) == (504, b"too late", True)
        assert await client.rest() == b""
