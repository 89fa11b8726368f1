"""What Inbound takes for a request, what it says about it, and what it refuses."""

from __future__ import annotations

import sys
import time

import pytest

from app.errors import BadRequest, HeadTooLarge, NotImplementedHere, SluiceError, TargetTooLong, VersionNotSupported
from app.wire import request_heads
from app.wire.http1 import PREFACE, Inbound, RequestHead

MAX_BYTES, MAX_FIELDS = 4096, 20


def inbound(data: bytes = b"", *, max_bytes: int = MAX_BYTES) -> Inbound:
    given = Inbound(max_bytes, MAX_FIELDS)
    given.feed(data)
    return given


def request(*fields: bytes, line: bytes = b"GET / HTTP/1.1", host: bool = True) -> bytes:
    return b"".join(each + b"\r\n" for each in (line, *([b"Host: a.example"] if host else []), *fields)) + b"\r\n"


def head_of(*fields: bytes, line: bytes = b"GET / HTTP/1.1", host: bool = True) -> RequestHead:
    head = inbound(request(*fields, line=line, host=host)).next_head()
    assert head is not None
    return head


def chunked(body: bytes) -> Inbound:
    given = inbound(request(b"Transfer-Encoding: chunked") + body)
    assert given.next_head() is not None
    return given


def everything(given: Inbound, limit: int = 1000) -> bytes | None:
    """The body as far as it is there; None in the place of an end that is not."""
    parts: list[bytes] = []
    while part := given.next_body(limit):
        parts.append(part)
    return None if part is None and not parts else b"".join(parts)


# -- heads -------------------------------------------------------------------------------------------------------------


def test_a_head_says_what_was_sent() -> None:
    raw = b"GET /a%20b/%C3%A9?x=%20&y HTTP/1.1\r\nHost: a.example:80\r\nX-One:  two\t \r\nX-One:\r\nx-oNe: \xe9\r\n\r\n"
    given = inbound(raw)
    assert given.next_head() == RequestHead(
        method="GET",
        raw_path=b"/a%20b/%C3%A9",
        path="/a b/é",
        query=b"x=%20&y",
        version="1.1",
        headers=[(b"host", b"a.example:80"), (b"x-one", b"two"), (b"x-one", b""), (b"x-one", b"\xe9")],
        content_length=None,
        chunked=False,
        keep_alive=True,
        expects_continue=False,
        upgrade=None,
        wants_trailers=False,
    )
    assert given.last_head == raw
    assert (given.left, given.buffered, given.next_body(1)) == (0, 0, b"")


@pytest.mark.parametrize(
    ("line", "raw_path", "path", "query"),
    [
        (b"GET /%ff%zz%2 HTTP/1.1", b"/%ff%zz%2", "/\ufffd%zz%2", b""),
        (b"GET /a? HTTP/1.1", b"/a", "/a", b""),
        (b"GET /a?b?c/d HTTP/1.1", b"/a", "/a", b"b?c/d"),
        (b"GET //a HTTP/1.1", b"//a", "//a", b""),
        (b"GET /a+b HTTP/1.1", b"/a+b", "/a+b", b""),
        (b"OPTIONS * HTTP/1.1", b"*", "*", b""),
    ],
)
def test_targets_are_taken_apart(line: bytes, raw_path: bytes, path: str, query: bytes) -> None:
    head = head_of(line=line)
    assert (head.raw_path, head.path, head.query) == (raw_path, path, query)


@pytest.mark.parametrize(
    ("target", "host", "raw_path", "query"),
    [
        (b"http://b.example:81/x?y", b"b.example:81", b"/x", b"y"),
        (b"HTTPS://b.example", b"b.example", b"/", b""),
        (b"http://[::1]?y", b"[::1]", b"/", b"y"),
    ],
)
def test_an_absolute_target_names_the_host(target: bytes, host: bytes, raw_path: bytes, query: bytes) -> None:
    head = head_of(b"A: b", line=b"GET " + target + b" HTTP/1.1")
    assert (head.headers, head.raw_path, head.query) == ([(b"host", host), (b"a", b"b")], raw_path, query)
    old = head_of(b"A: b", line=b"GET " + target + b" HTTP/1.0", host=False)
    assert old.headers == [(b"host", host), (b"a", b"b")]


@pytest.mark.parametrize(
    ("line", "fields", "keep_alive"),
    [
        (b"GET / HTTP/1.1", (), True),
        (b"GET / HTTP/1.1", (b"Connection: close",), False),
        (b"GET / HTTP/1.1", (b"Connection: x, ,\tCLOSE",), False),
        (b"GET / HTTP/1.1", (b"Connection: keep-alive", b"Connection: close"), False),
        (b"GET / HTTP/1.1", (b"Connection: closed",), True),
        (b"GET / HTTP/1.7", (), True),
        (b"GET / HTTP/1.0", (), False),
        (b"GET / HTTP/1.0", (b"Connection: Keep-Alive",), True),
        (b"GET / HTTP/1.0", (b"Connection: keep-alive, close",), False),
    ],
)
def test_keep_alive(line: bytes, fields: tuple[bytes, ...], keep_alive: bool) -> None:
    head = head_of(*fields, line=line)
    assert head.keep_alive is keep_alive
    assert head.version == ("1.0" if line.endswith(b"1.0") else "1.1")


@pytest.mark.parametrize(
    ("fields", "expects", "upgrade", "trailers"),
    [
        ((b"Expect: 100-Continue",), True, None, False),
        ((b"Expect: 200-maybe",), False, None, False),
        ((b"Connection: Upgrade", b"Upgrade: WebSocket"), False, b"websocket", False),
        ((b"Connection: upgrade", b"Upgrade: h2c", b"Upgrade: x"), False, b"h2c,x", False),
        ((b"Connection: upgrade", b"Upgrade:"), False, None, False),
        ((b"Upgrade: websocket",), False, None, False),
        ((b"Connection: upgrade",), False, None, False),
        ((b"TE: deflate;q=0.5, Trailers",), False, None, True),
        ((b"TE: trailers;q=1",), False, None, False),
    ],
)
def test_what_a_client_asks_of_the_connection(
    fields: tuple[bytes, ...], expects: bool, upgrade: bytes | None, trailers: bool
) -> None:
    head = head_of(*fields)
    assert (head.expects_continue, head.upgrade, head.wants_trailers) == (expects, upgrade, trailers)
    old = head_of(*fields, line=b"GET / HTTP/1.0")
    assert (old.expects_continue, old.upgrade, old.wants_trailers) == (False, None, False)


@pytest.mark.parametrize(
    ("error", "data"),
    [
        (BadRequest, request(line=b"GET  / HTTP/1.1")),
        (BadRequest, request(line=b"GET /")),
        (BadRequest, request(line=b"GET /\xe9 HTTP/1.1")),
        (BadRequest, request(line=b"GET /#a HTTP/1.1")),
        (BadRequest, request(line=b"GET * HTTP/1.1")),
        (BadRequest, request(line=b"GET a.example:80 HTTP/1.1")),
        (BadRequest, request(line=b"GET ftp://a/ HTTP/1.1")),
        (BadRequest, request(line=b"GET http://u@a/ HTTP/1.1")),
        (BadRequest, request(line=b"GET http:///x HTTP/1.1")),
        (BadRequest, request(line=b"GET / http/1.1")),
        (BadRequest, request(line=b"GET / HTTP/11")),
        (VersionNotSupported, request(line=b"GET / HTTP/2.0")),
        (VersionNotSupported, request(line=b"GET / HTTP/0.9")),
        (NotImplementedHere, request(line=b"CONNECT a.example:80 HTTP/1.1")),
        (NotImplementedHere, request(line=b"CONNECT / HTTP/1.1")),
        (NotImplementedHere, request(line=b"BREW / HTTP/1.1")),
        (NotImplementedHere, request(line=b"get / HTTP/1.1")),
        (BadRequest, request(host=False)),
        (BadRequest, request(line=b"GET / HTTP/1.2", host=False)),
        (BadRequest, request(b"Host: a.example")),
        (BadRequest, request(b"Host: a", b"Host: b", line=b"GET / HTTP/1.0", host=False)),
        *((BadRequest, request(b"Host: " + host, host=False)) for host in (b"a,b", b"a b", b"a/b", b"u@a", b":80")),
        *((BadRequest, request(b"Host: " + host, host=False)) for host in (b"a:b", b"[::1", b"\xe9", b"a:80:80")),
        (BadRequest, request(b"A : b")),
        (BadRequest, request(b": b")),
        (BadRequest, request(b"A")),
        (BadRequest, request(b"A: b\r\n c")),
        (BadRequest, request(b"A: b\nB: c")),
        (BadRequest, request(b"A: b\rB: c")),
        *((BadRequest, request(b"A: b" + bytes([byte]))) for byte in (0, 1, 11, 12, 27, 127)),
        (BadRequest, request(b"Content-Length: 1", b"Content-Length: 1")),
        (BadRequest, request(b"Content-Length: 1, 1")),
        (BadRequest, request(b"Content-Length: +1")),
        (BadRequest, request(b"Content-Length:")),
        (BadRequest, request(b"Content-Length: " + b"1" * 19)),
        (BadRequest, request(b"Content-Length: 1", b"Transfer-Encoding: chunked")),
        (BadRequest, request(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked")),
        (BadRequest, request(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0")),
        (NotImplementedHere, request(b"Transfer-Encoding: gzip")),
        (NotImplementedHere, request(b"Transfer-Encoding: gzip, chunked")),
        (NotImplementedHere, request(b"Transfer-Encoding: chunked;a=b")),
        (NotImplementedHere, request(b"Transfer-Encoding:")),
        (HeadTooLarge, request(*[b"A: b"] * MAX_FIELDS)),
        (HeadTooLarge, request(b"A: " + b"b" * MAX_BYTES)),
        (TargetTooLong, request(line=b"GET /" + b"a" * MAX_BYTES + b" HTTP/1.1")),
        (BadRequest, b"\r\n\r\n" + request()),
        (BadRequest, b"\n" + request()),
        (BadRequest, b"\x16\x03\x01"),
        (BadRequest, b"GET / HTTP/1.1\n"),
        (BadRequest, b"GET / HTTP/1.1\rH"),
    ],
)
def test_what_is_refused(error: type[SluiceError], data: bytes) -> None:
    given = inbound(data)
    with pytest.raises(SluiceError) as caught:
        given.next_head()
    assert type(caught.value) is error
    assert caught.value.detail.isprintable()
    assert len(caught.value.detail) < 250


def test_what_llhttp_reads_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_heads._Heard, "on_header", lambda *_: None)
    with pytest.raises(BadRequest, match="two ways"):
        inbound(request()).next_head()


def test_nothing_comes_after_a_refusal() -> None:
    given = inbound(b"GET  / HTTP/1.1\r\n\r\n" + request())
    with pytest.raises(BadRequest):
        given.next_head()
    for call in (given.next_head, given.rest, lambda: given.feed(request()), lambda: given.next_body(1)):
        with pytest.raises(BadRequest):
            call()
    assert (given.buffered, given.left, given.head_begun) == (0, None, False)
    assert (given.preface, given.is_http2) == (False, False)


def test_limits_hold_to_the_byte_and_to_the_field() -> None:
    whole = request(b"A: " + b"b" * 100)
    assert inbound(whole, max_bytes=len(whole)).next_head() is not None
    with pytest.raises(HeadTooLarge):
        inbound(whole, max_bytes=len(whole) - 1).next_head()
    assert inbound(whole[:-1], max_bytes=len(whole) - 1).next_head() is None
    assert len(head_of(*[b"A: b"] * (MAX_FIELDS - 1)).headers) == MAX_FIELDS


def test_one_empty_line_before_a_request_is_skipped() -> None:
    given = inbound()
    assert not given.head_begun
    for byte, begun in ((b"\r", False), (b"\n", False), (b"G", True)):
        given.feed(byte)
        assert given.head_begun is begun
        assert given.next_head() is None
        assert given.head_begun is begun
    given.feed(request()[1:] + b"\r\n" + request())
    assert given.next_head() is not None
    assert given.head_begun
    assert given.next_head() is not None
    assert given.last_head == request()
    assert (given.buffered, given.head_begun) == (0, False)


def test_a_head_byte_by_byte_costs_no_more_than_its_length() -> None:
    def seconds(size: int) -> float:
        given, head = Inbound(size * 2, MAX_FIELDS), None
        begun = time.perf_counter()
        for byte in request(b"A: " + b"b" * size):
            given.feed(bytes((byte,)))
            head = given.next_head()
        assert head is not None
        return time.perf_counter() - begun

    small, large = (min(seconds(size) for _ in range(3)) for size in (10_000, 80_000))
    assert large < small * 8 * 4


def test_no_pattern_backtracks() -> None:
    begun = time.perf_counter()
    for evil in (
        b"A: " + b" \t" * 30_000 + b"\x01",
        b"A" * 60_000,
        b"Host: " + b"%41a" * 15_000 + b",",
        b"a:\r\n" * 9000,
    ):
        with pytest.raises(SluiceError):
            inbound(request(evil.removesuffix(b"\r\n")), max_bytes=1 << 20).next_head()
    assert time.perf_counter() - begun < 1


# -- bodies ------------------------------------------------------------------------------------------------------------


def test_a_counted_body_is_pulled() -> None:
    given = inbound(request(b"Content-Length: 10") + b"01234")
    head = given.next_head()
    assert head is not None
    assert head.content_length == 10
    assert (given.left, given.buffered, given.head_begun) == (10, 5, False)
    assert [given.next_body(3), given.next_body(3), given.next_body(3)] == [b"012", b"34", None]
    with pytest.raises(RuntimeError):
        given.next_head()
    given.feed(b"56789GET")
    assert given.next_body(sys.maxsize) == b"56789"
    assert (given.left, given.next_body(9), given.next_body(9)) == (0, b"", b"")
    assert (given.next_head(), given.head_begun, given.rest(), given.buffered) == (None, True, b"GET", 3)
    with pytest.raises(ValueError, match="limit"):
        given.next_body(0)


def test_a_whole_piece_of_body_is_not_copied() -> None:
    given = inbound(request(b"Content-Length: 5000"))
    given.next_head()
    piece = b"x" * 5000
    given.feed(piece)
    assert given.next_body(10_000) is piece


def test_a_chunked_body_is_decoded_as_it_is_pulled() -> None:
    given = chunked(b"5;a=b\r\n01234\r\n00A;\r\n56789abcde\r\n0\r\nX-Sum:  1 \r\nHost: b\r\n\r\nGET")
    assert given.left is None
    assert [given.next_body(4), given.next_body(4), given.next_body(99)] == [b"0123", b"4567", b"89abcde"]
    assert (given.next_body(9), given.left, given.trailers) == (b"", 0, [(b"x-sum", b"1")])
    assert given.rest() == b"GET"
    given.feed(request()[3:])
    assert given.next_head() is not None
    assert given.trailers == []


def test_nothing_behind_what_was_asked_for_is_looked_at() -> None:
    given = chunked(b"3\r\nabc\r\nno size\r\n")
    assert given.next_body(3) == b"abc"
    with pytest.raises(BadRequest):
        given.next_body(1)


@pytest.mark.parametrize("size", [b"", b" 5", b"5 ", b"0x5", b"-5", b"5;\x00", b"5;a\x7f", b"5 ;a", b"g", b"0" * 17])
def test_what_is_no_size_of_a_chunk(size: bytes) -> None:
    with pytest.raises(BadRequest):
        chunked(size + b"\r\n01234\r\n0\r\n\r\n").next_body(5)


@pytest.mark.parametrize(
    "body",
    [
        b"5\n01234\r\n0\r\n\r\n",
        b"5\r01234\r\n0\r\n\r\n",
        b"5\r\n012345\r\n",
        b"5\r\n01234\n0\r\n\r\n",
        b"5\r\n01234\r0",
        b"5x",
        b"5;" + b"a" * 1024,
        b"0\r\n\n",
        b"0\r\nA: b\n\r\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\nA: b\r\n c\r\n\r\n",
        b"0\r\nContent-Length: x\r\n\r\n",
        b"0\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"0\r\nTransfer-Encoding: gzip\r\n\r\n",
    ],
)
def test_chunks_that_are_refused(body: bytes) -> None:
    given = chunked(body)
    with pytest.raises(BadRequest):
        while given.next_body(100):
            pass
    assert given.left != 0
    with pytest.raises(BadRequest):
        given.next_body(100)


def test_bounds_of_chunked_bodies() -> None:
    assert chunked(b"%x\r\nab" % (2**64 - 1)).next_body(9) == b"ab"
    assert chunked(b"1;" + b"a" * 1022 + b"\r\nz").next_body(9) == b"z"
    with pytest.raises(BadRequest, match="extensions"):
        everything(chunked((b"1;" + b"a" * 999 + b"\r\nz\r\n") * 17))
    with pytest.raises(HeadTooLarge):
        everything(chunked(b"0\r\n" + b"A: b\r\n" * (MAX_FIELDS + 1) + b"\r\n"))
    with pytest.raises(HeadTooLarge):
        everything(chunked(b"0\r\nA: " + b"b" * MAX_BYTES))


# -- other protocols ---------------------------------------------------------------------------------------------------


def test_the_preface_of_http2_is_told_from_a_request() -> None:
    given = inbound()
    assert not given.preface
    for number, byte in enumerate(PREFACE, 1):
        given.feed(bytes((byte,)))
        assert (given.preface, given.is_http2) == (True, number == len(PREFACE))
        assert given.next_head() is None
    given.feed(b"more")
    assert (given.is_http2, given.next_head(), given.rest()) == (True, None, PREFACE + b"more")


def test_what_only_begins_like_the_preface_is_a_request() -> None:
    given = inbound(b"P")
    assert (given.preface, given.next_head()) == (True, None)
    given.feed(request(line=b"PUT / HTTP/1.1")[1:])
    assert not given.preface
    assert given.next_head() is not None
    given.feed(PREFACE)
    assert not given.preface
    with pytest.raises(VersionNotSupported):
        given.next_head()


def test_the_rest_is_for_who_takes_over() -> None:
    upgrade = request(b"Connection: Upgrade", b"Upgrade: websocket")
    given = inbound(upgrade + b"\x81\x00")
    assert given.next_head() is not None
    assert (given.last_head, given.rest(), given.buffered) == (upgrade, b"\x81\x00", 2)


def test_an_upgrade_that_is_not_taken_leaves_the_connection_as_it_was() -> None:
    plain = request()
    odd = (
        request(b"Connection: Upgrade", b"Upgrade: websocket"),
        request(b"Content-Length: 0"),
        request(b"Connection: close"),
        request(line=b"GET / HTTP/1.0"),
        request(b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    )
    given = inbound(b"".join(plain + each for each in odd) + plain)
    for _ in range(2 * len(odd) + 1):
        assert given.next_head() is not None
        assert given.next_body(1) == b""
    assert given.buffered == 0
