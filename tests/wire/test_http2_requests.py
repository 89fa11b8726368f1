"""Malformed requests over HTTP/2 end their own stream, whatever is wrong with them; what is well-formed is served."""

from __future__ import annotations

import re
from typing import Any

import h2.events
import pytest
import structlog
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.errors import NotImplementedHere, SluiceError
from app.wire.asgi import Receive, Scope, Send
from app.wire.hypercorn.http2_requests import fault_of
from app.wire.request_heads import HeadParser
from tests.wire.http2_client import CODES, Http2, bounded, connected, hello
from tests.wire.serving import Waiting, answer, open_server, read_body

HEAD = {":method": "GET", ":path": "/", ":scheme": "http", ":authority": "sluice"}


def _head(*fields: tuple[str, str], **pseudo: str | None) -> list[tuple[str, str]]:
    """A head, its pseudo fields replaced, or left out where None."""
    given = HEAD | {f":{name}": value for name, value in pseudo.items()}
    return [*((name, value) for name, value in given.items() if value is not None), *fields]


class Uploads:
    """``/upload`` takes a body; ``ends``: how what it was told of each ended."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.ends: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])
        try:
            body = await read_body(receive)
        except EOFError:
            self.ends.append("disconnect")
            return
        self.ends.append("whole")
        await answer(send, body)


_MALFORMED = {
    "no path": _head(path=None),
    "no method": _head(method=None),
    "no scheme": _head(scheme=None),
    "no host": _head(authority=None),
    "an empty path": _head(path=""),
    "a path that is no path": _head(path="index.html"),
    "a space in the path": _head(path="/a b"),
    "a fragment": _head(path="/#a"),
    "a control in the path": _head(path="/\x01"),
    "a line break in the path": _head(path="/ HTTP/1.1\r\nx: y"),
    "a path that is no ASCII": _head(path="/\xff"),
    "an asterisk": _head(path="*"),
    "a method that is no token": _head(method="GET /"),
    "a method that is no ASCII": _head(method="G\xc9T"),
    "an empty method": _head(method=""),
    "two hosts": _head(authority="sluice, other"),
    "a user": _head(authority="user@sluice"),
    "another host": _head(("host", "other")),
    "a pseudo field twice": _head((":path", "/other")),
    "a pseudo field after a field": [("x-field", "1"), *_head()],
    "an unknown pseudo field": [(":unknown", "1"), *_head()],
    "an answer's pseudo field": [(":status", "200"), *_head()],
    "upper case": _head(("X-Field", "1")),
    "no name": _head(("", "1")),
    "a name that is no token": _head(("x(field)", "1")),
    "a colon in a name": _head(("x:field", "1")),
    "a line break in a value": _head(("x-field", "1\r\nx-other: 1")),
    "NUL in a value": _head(("x-field", "a\0")),
    "a control in a value": _head(("x-field", "a\x7f")),
    "white space around a value": _head(("x-field", " 1")),
    "te": _head(("te", "trailers, gzip")),
    "connection": _head(("connection", "close")),
    "keep-alive": _head(("keep-alive", "1")),
    "proxy-connection": _head(("proxy-connection", "close")),
    "transfer-encoding": _head(("transfer-encoding", "chunked")),
    "upgrade": _head(("upgrade", "websocket")),
    "a length that is none": _head(("content-length", "+1")),
    "two lengths": _head(("content-length", "1"), ("content-length", "2")),
    "a length without a body": _head(("content-length", "1")),
}


@pytest.mark.parametrize("kind", _MALFORMED)
async def test_a_malformed_head_ends_its_stream_and_no_other(kind: str) -> None:
    app = Uploads()
    with structlog.testing.capture_logs() as logs:
        async with open_server(app) as server, connected(server) as client:
            other = await client.ask("/other", method="POST", ends=False)
            assert await client.reset(await client.ask_with(_MALFORMED[kind])) == CODES.PROTOCOL_ERROR
            await client.upload(other, b"goes on", ends=True)
            assert await client.body(other) == b"goes on"
            assert not client.of(h2.events.ConnectionTerminated)
    assert app.paths == ["/other"]
    assert [(line["event"], line["client"]) for line in logs] == [("stream refused", "127.0.0.1")]
    assert re.fullmatch(r"[\x20-\x7e…]{5,100}", logs[0]["detail"])


@pytest.mark.parametrize(
    "head",
    [
        _head(method="OPTIONS", path="*"),
        _head(method="PURGE"),
        _head(path="/a%20b?c=/?%00&\"<>'[]{}|^`"),
        _head(authority="[::1]:80"),
        _head(("host", "sluice"), authority=None),
        _head(("host", "sluice")),
        _head(("te", "trailers"), ("x-field", "a\tb \xe9"), ("x-empty", "")),
        _head(("content-length", "0")),
        _head(("cookie", "a=1"), ("cookie", "b=2")),
    ],
)
async def test_what_is_well_formed_is_served(head: Any) -> None:
    async with open_server(hello) as server, connected(server) as client:
        assert await client.body(await client.ask_with(head)) == b"hello"


# -- bodies and what was announced of them -----------------------------------------------------------------------------


async def _upload(client: Http2, announced: int, sent: int, *, trailers: bool) -> int:
    stream = await client.ask("/upload", ("content-length", str(announced)), method="POST", ends=False)
    await client.upload(stream, bytes(sent), ends=not trailers)
    if trailers:
        client.h2.send_headers(stream, [("x-digest", "1")], end_stream=True)
        await client.flush()
    return stream


@pytest.mark.parametrize("trailers", [False, True], ids=["", "trailers"])
@pytest.mark.parametrize(("announced", "sent"), [(10, 9), (10, 0), (10, 11), (0, 1), (100_000, 65_000)])
async def test_a_body_that_is_not_as_long_as_announced_is_never_taken_for_whole(
    announced: int, sent: int, trailers: bool
) -> None:
    app = Uploads()
    async with open_server(app) as server, connected(server) as client:
        other = await client.ask("/other", method="POST", ends=False)
        assert await client.reset(await _upload(client, announced, sent, trailers=trailers)) == CODES.PROTOCOL_ERROR
        await client.upload(other, b"goes on", ends=True)
        assert await client.body(other) == b"goes on"
        await client.ping()
        assert client.h2.outbound_flow_control_window == 65_535
    # It need not have been called: what came at once was known to be malformed.
    assert sorted(app.ends) in (["disconnect", "whole"], ["whole"])


@pytest.mark.parametrize("trailers", [False, True], ids=["", "trailers"])
async def test_a_body_as_long_as_announced_is_whole(trailers: bool) -> None:
    app = Uploads()
    async with open_server(app) as server, connected(server) as client:
        assert await client.body(await _upload(client, 10, 10, trailers=trailers)) == bytes(10)


async def test_a_malformed_body_ends_a_route_that_waits_for_it() -> None:
    waiting = Waiting()
    async with open_server(bounded(waiting)) as server, connected(server) as client:
        stream = await client.ask("/", ("content-length", "10"), method="POST", ends=False)
        await waiting.begun.wait()
        await client.upload(stream, b"short", ends=True)
        await waiting.ended.wait()
        assert await client.reset(stream) == CODES.PROTOCOL_ERROR


async def test_trailers_are_judged_too() -> None:
    app = Uploads()
    async with open_server(app) as server, connected(server) as client:
        stream = await client.ask("/upload", method="POST", ends=False)
        await client.upload(stream, b"body")
        client.h2.send_headers(stream, [("x-field", "a\0")], end_stream=True)
        await client.flush()
        assert await client.reset(stream) == CODES.PROTOCOL_ERROR
        assert await client.body(await client.ask("/")) == b""
    assert app.paths[-1] == "/"
    assert app.ends in (["disconnect", "whole"], ["whole"])


# -- as strict as HTTP/1.1, and no stricter ----------------------------------------------------------------------------


def _is_request(path: bytes, host: bytes, name: bytes, value: bytes) -> bool:
    raw = b"GET %b HTTP/1.1\r\nhost: %b\r\n%b: %b\r\n\r\n" % (path, host, name, value)
    try:
        head = HeadParser(100).parse(raw)
    except NotImplementedHere:
        return True
    except SluiceError:
        return False
    return head.headers == [(b"host", host), (name, value)]


_LIKELY = st.sampled_from([b"a", b"/", b"?", b"#", b" ", b":", b"%41", b"[::1]", b",", b"\t", b"\x7f", b"\xff", b"@"])
_BYTES = st.lists(_LIKELY, max_size=4).map(b"".join)


@given(path=_BYTES.map(lambda rest: b"/" + rest), host=_BYTES, name=_BYTES, value=_BYTES)
@example(path=b"/a?b", host=b"a:1", name=b"a", value=b"")
@settings(max_examples=300, deadline=None)
def test_what_http_1_1_takes_http_2_takes(path: bytes, host: bytes, name: bytes, value: bytes) -> None:
    value, host, name = value.strip(b" \t"), host.strip(b" \t"), b"x" + name
    fields = [(b":method", b"GET"), (b":path", path), (b":authority", host), (name, value)]
    assert (fault_of(fields) is None) == _is_request(path, host, name, value)
