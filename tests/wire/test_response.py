"""The framing of answers: whatever an application says, h11 reads it as it was meant, or it is not said at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from email.utils import parsedate_to_datetime
from itertools import pairwise

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.wire import response as response_module
from app.wire.http1 import RequestHead
from app.wire.response import BadAnswer, Fields, Response

_MODERN = RequestHead("GET", b"/", "/", b"", "1.1", [], None, False, True, False, None, False)
_TRAILERS = replace(_MODERN, wants_trailers=True)
_OLD = replace(_MODERN, version="1.0", keep_alive=False)
_OLD_KEPT = replace(_OLD, keep_alive=True)
_HEAD = replace(_MODERN, method="HEAD")


def _begin(
    head: RequestHead = _MODERN,
    *fields: tuple[bytes, bytes],
    status: int = 200,
    size: int | None = None,
    close: bool = False,
    trailers: bool = False,
) -> tuple[Response, bytes]:
    response = Response(head)
    return response, response.begin(status, fields, size=size, close=close, trailers=trailers)


def _fields(head: bytes) -> dict[bytes, bytes]:
    """Those of ``head``; one that is there twice fails the test."""
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")[1:]
    fields = dict(line.lower().split(b": ", 1) for line in lines)
    assert len(fields) == len(lines)
    return fields


# -- the head ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "line"), [(200, b"200 OK"), (404, b"404 Not Found"), (299, b"299 "), (999, b"999 ")]
)
def test_the_status_line(status: int, line: bytes) -> None:
    assert _begin(status=status)[1].startswith(b"HTTP/1.1 " + line + b"\r\n")


@pytest.mark.parametrize("status", [0, 99, 100, 101, 103, 199, 1000, -200])
def test_what_is_no_final_status_is_not_sent(status: int) -> None:
    with pytest.raises(BadAnswer, match="status"):
        _begin(status=status)


def test_fields_stay_in_their_order_and_more_than_one_of_a_name() -> None:
    _, head = _begin(_MODERN, (b"X-B", b"1"), (b"set-cookie", b"a"), (b"set-cookie", b"b"), size=0)
    assert b"x-b: 1\r\nset-cookie: a\r\nset-cookie: b\r\n" in head


def test_there_is_a_date_the_application_s_if_it_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1_700_000_000.9]
    monkeypatch.setattr(response_module.time, "time", lambda: clock[0])
    assert _fields(_begin(size=0)[1])[b"date"] == b"tue, 14 nov 2023 22:13:20 gmt"
    clock[0] += 1
    given = _fields(_begin(size=0)[1])[b"date"].decode()
    assert parsedate_to_datetime(given).timestamp() == 1_700_000_001
    assert _fields(_begin(_MODERN, (b"Date", b"today"), size=0)[1])[b"date"] == b"today"


@pytest.mark.parametrize(
    ("head", "close", "kept", "field"),
    [
        (_MODERN, False, True, None),
        (_MODERN, True, False, b"close"),
        (replace(_MODERN, keep_alive=False), False, False, b"close"),
        (_OLD, False, False, b"close"),
        (_OLD_KEPT, False, True, b"keep-alive"),
        (_OLD_KEPT, True, False, b"close"),
    ],
)
def test_whether_another_request_may_follow(head: RequestHead, close: bool, kept: bool, field: bytes | None) -> None:
    response, sent = _begin(head, size=3, close=close)
    assert response.keeps_alive is kept
    assert _fields(sent).get(b"connection") == field
    assert not response.until_close


@pytest.mark.parametrize(
    ("value", "kept"), [(b"close", False), (b"Close, TE", False), (b"keep-alive", True), (b"TE", True)]
)
def test_the_application_may_close_and_no_more(value: bytes, kept: bool) -> None:
    response, sent = _begin(_MODERN, (b"Connection", value), size=3)
    assert response.keeps_alive is kept
    assert _fields(sent).get(b"connection") == (None if kept else b"close")


@pytest.mark.parametrize(
    "field",
    [
        (b"x-field", b"a\r\nx-injected: 1"),
        (b"x-field", b"a\n"),
        (b"x-field", b"a\r"),
        (b"x-field", b"a\r\n\r\nbody"),
        (b"x-field", b"\0"),
        (b"x\r\nfield", b"1"),
        (b"x\0", b"1"),
    ],
)
def test_what_would_end_a_line_is_not_sent(field: tuple[bytes, bytes]) -> None:
    with pytest.raises(BadAnswer, match="line break"):
        _begin(_MODERN, field, size=0)


@pytest.mark.parametrize("value", [b"", b"x", b"-1", b"+1", b"1.0", b" 1", b"1, 1", b"0x1", "١".encode()])
def test_a_length_that_is_no_number_is_not_sent(value: bytes) -> None:
    with pytest.raises(BadAnswer, match="Content-Length"):
        _begin(_MODERN, (b"content-length", value))


def test_two_lengths_are_one_only_where_they_are_the_same() -> None:
    same = ((b"content-length", b"3"), (b"Content-Length", b"3"))
    assert _fields(_begin(_MODERN, *same)[1])[b"content-length"] == b"3"
    with pytest.raises(BadAnswer):
        _begin(_MODERN, (b"content-length", b"3"), (b"Content-Length", b"4"))


# -- the framing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "status", "told", "size", "framing"),
    [
        (_MODERN, 200, None, 5, b"content-length: 5"),
        (_MODERN, 200, b"5", None, b"content-length: 5"),
        (_MODERN, 200, b"5", 3, b"content-length: 5"),
        (_MODERN, 200, None, None, b"transfer-encoding: chunked"),
        (_MODERN, 200, None, 0, b"content-length: 0"),
        (_MODERN, 204, b"5", 5, None),
        (_MODERN, 304, None, None, None),
        (_MODERN, 304, None, 0, None),  # RFC 9110 8.6: none, rather than a wrong one
        (_MODERN, 304, b"5", 0, b"content-length: 5"),
        (_HEAD, 200, b"5", 0, b"content-length: 5"),
        (_HEAD, 200, None, 5, b"content-length: 5"),
        (_HEAD, 204, None, 0, None),
        (_OLD, 200, None, None, None),
        (_OLD, 200, None, 5, b"content-length: 5"),
    ],
)
def test_how_the_end_of_the_body_is_told(
    head: RequestHead, status: int, told: bytes | None, size: int | None, framing: bytes | None
) -> None:
    fields = [] if told is None else [(b"content-length", told)]
    _, sent = _begin(head, *fields, (b"Transfer-Encoding", b"gzip"), status=status, size=size)
    names = {name: value for name, value in _fields(sent).items() if name in {b"content-length", b"transfer-encoding"}}
    assert names == (dict([framing.split(b": ")]) if framing else {})


def test_head_without_a_known_size_says_no_wrong_one() -> None:
    _, sent = _begin(_HEAD, size=0)
    assert b"content-length" not in _fields(sent)


@pytest.mark.parametrize(("head", "until_close"), [(_OLD, True), (_OLD_KEPT, True), (_MODERN, False)])
def test_a_body_of_unknown_length_ends_an_old_connection(head: RequestHead, until_close: bool) -> None:
    response, sent = _begin(head)
    assert response.until_close is until_close
    assert response.keeps_alive is not until_close
    assert list(response.body(b"data")) == ([b"data"] if until_close else [b"4\r\n", b"data", b"\r\n"])
    assert response.end() == (b"" if until_close else b"0\r\n\r\n")
    assert (_fields(sent).get(b"connection") == b"close") is until_close


def test_to_head_nothing_lasts_until_the_close() -> None:
    response, _ = _begin(replace(_OLD_KEPT, method="HEAD"))
    assert not response.until_close
    assert response.keeps_alive


@pytest.mark.parametrize("size", [0, 1, 15, 16, 65_536])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_chunk(size: int, kind: type) -> None:
    response, _ = _begin()
    buffers = response.body(kind(bytes(size)))
    assert b"".join(buffers) == (b"%x\r\n%b\r\n" % (size, bytes(size)) if size else b"")


@pytest.mark.parametrize(("head", "status"), [(_HEAD, 200), (_MODERN, 204), (_MODERN, 304)])
def test_where_there_is_no_body_none_is_sent(head: RequestHead, status: int) -> None:
    response, _ = _begin(head, status=status)
    assert response.frame_of(5) == (None, b"")
    assert not response.body(b"12345")
    assert response.end() == b""


@pytest.mark.parametrize("sizes", [[6], [3, 3], [5, 1]])
def test_no_more_than_was_announced(sizes: list[int]) -> None:
    response, _ = _begin(size=5)
    for size in sizes[:-1]:
        response.body(bytes(size))
    with pytest.raises(BadAnswer, match="longer"):
        response.body(bytes(sizes[-1]))


@pytest.mark.parametrize("sizes", [[], [4], [1, 2]])
def test_no_less_than_was_announced(sizes: list[int]) -> None:
    response, _ = _begin(size=5)
    for size in sizes:
        response.body(bytes(size))
    with pytest.raises(BadAnswer, match="shorter"):
        response.end()


def test_after_a_bad_answer_nothing_of_it_is_left() -> None:
    response = Response(_MODERN)
    with pytest.raises(BadAnswer):
        response.begin(200, [(b"x", b"\n")], size=None, close=False, trailers=False)  # in chunks
    assert b"content-length: 3" in response.begin(200, [], size=3, close=False, trailers=False)
    assert list(response.body(b"abc")) == [b"abc"]
    assert response.end() == b""
    with pytest.raises(BadAnswer):
        response.begin(200, [(b"x", b"\n")], size=3, close=True, trailers=False)
    response.begin(200, [], size=None, close=False, trailers=False)
    assert response.keeps_alive
    assert response.body(b"abcdef")[0] == b"6\r\n"
    assert response.end() == b"0\r\n\r\n"


# -- an answer in one piece --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("data", [b"", b"data"])
def test_a_whole_answer(kind: Callable[[Fields], Fields], data: bytes) -> None:
    for number in range(3):  # what is remembered of a tuple is not what was another answer's own
        response, own = Response(_MODERN), b"x-number: %d\r\n" % number
        head, *body = response.at_once(200, kind([(b"X-Field", b"1")]), data, close=False, own=own)
        fields = _fields(bytes(head))
        assert fields.pop(b"date")
        assert fields == {b"x-field": b"1", b"x-number": b"%d" % number, b"content-length": b"%d" % len(data)}
        assert b"".join(body) == data
        assert response.end() == b""
        assert response.keeps_alive


@pytest.mark.parametrize(
    ("request_head", "status", "fields"),
    [(_HEAD, 200, [(b"content-length", b"4")]), (_MODERN, 304, [(b"content-length", b"4")]), (_MODERN, 204, [])],
)
def test_a_whole_answer_without_a_body(request_head: RequestHead, status: int, fields: Fields) -> None:
    (head,) = Response(request_head).at_once(status, fields, b"data", close=False)
    assert bytes(head).endswith(b"\r\n\r\n")
    assert (b"content-length" in _fields(bytes(head))) == (status != 204)


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("length", [b"3", b"5", b"4x"])
def test_a_whole_answer_of_another_length_than_announced_is_not_sent(
    kind: Callable[[Fields], Fields], length: bytes
) -> None:
    with pytest.raises(BadAnswer, match="Content-Length"):
        Response(_MODERN).at_once(200, kind([(b"content-length", length)]), b"data", close=False)


def test_fields_that_say_close_do_so_each_time() -> None:
    for _ in range(2):
        response, sent = _begin(_MODERN, (b"connection", b"close"))
        assert not response.keeps_alive
        assert _fields(sent)[b"connection"] == b"close"


# -- trailers ----------------------------------------------------------------------------------------------------------


def test_trailers_come_in_chunks_also_where_the_length_is_known() -> None:
    response, sent = _begin(_TRAILERS, (b"content-length", b"3"), size=3, trailers=True)
    assert _fields(sent)[b"transfer-encoding"] == b"chunked"
    assert b"content-length" not in _fields(sent)
    assert response.end([(b"X-Sum", b"1")]) == b"0\r\nx-sum: 1\r\n\r\n"


@pytest.mark.parametrize(("head", "announced"), [(_MODERN, True), (_TRAILERS, False)])
def test_trailers_nobody_asked_for_or_announced_are_left_out(head: RequestHead, announced: bool) -> None:
    response, _ = _begin(head, trailers=announced)
    assert response.end([(b"x-sum", b"1")]) == b"0\r\n\r\n"


@pytest.mark.parametrize("value", [b"a\r\nb", b"a\n", b"\r", b"\0"])
def test_a_trailer_that_would_end_a_line_is_not_sent(value: bytes) -> None:
    response, _ = _begin(_TRAILERS, trailers=True)
    with pytest.raises(BadAnswer, match="line break"):
        response.end([(b"x-sum", value)])


# -- as a client reads it ----------------------------------------------------------------------------------------------

_NAMES = st.from_regex(rb"x-[a-z0-9!#$%&'*+.^_`|~-]{1,10}", fullmatch=True)
# What h11 takes, and what would break a line.
_VALUES = st.lists(st.sampled_from([*range(0x20, 0x7F), *range(0x80, 0x100), *b"\t\r\n\0"]), max_size=20).map(bytes)
_PARTS = st.lists(st.binary(max_size=50), max_size=5)
_HEADS = st.sampled_from([_MODERN, _TRAILERS, _OLD, _OLD_KEPT, _HEAD, replace(_HEAD, version="1.0", keep_alive=False)])


def _send(head: RequestHead, status: int, fields: Fields, parts: Sequence[bytes], size: int | None) -> bytes:
    response = Response(head)
    sent = response.begin(status, fields, size=size, close=False, trailers=True)
    for data in parts:
        sent += b"".join(response.body(data))
    return sent + response.end([(b"x-trailer", b"1")])


def _read(head: RequestHead, sent: bytes) -> list[h11.Event]:
    """The events of one answer, which is all that was sent."""
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method=head.method, target="/", headers=[("host", "a")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(sent)
    events: list[h11.Event] = []
    while not events or not isinstance(events[-1], h11.EndOfMessage):
        event = parser.next_event()
        if event is h11.NEED_DATA:
            parser.receive_data(b"")
            continue
        assert not isinstance(event, type)
        events.append(event)
    assert parser.trailing_data[0] == b""
    return events


@given(
    _HEADS,
    st.sampled_from([200, 204, 206, 304, 404, 500]),
    st.lists(st.tuples(_NAMES, _VALUES), max_size=4),
    _PARTS,
    st.booleans(),
)
def test_what_is_sent_is_read_as_what_was_meant(
    head: RequestHead, status: int, fields: list[tuple[bytes, bytes]], parts: list[bytes], sized: bool
) -> None:
    body = b"".join(parts)
    clean = [(name, value) for name, value in fields if not set(value) & set(b"\r\n\0")]
    if clean != fields:
        with pytest.raises(BadAnswer):
            _send(head, status, fields, parts, len(body) if sized else None)
    events = _read(head, _send(head, status, clean, parts, len(body) if sized else None))
    first, last = events[0], events[-1]
    assert isinstance(first, h11.Response)
    assert isinstance(last, h11.EndOfMessage)
    assert first.status_code == status
    read = [(name, value) for name, value in first.headers if name.startswith(b"x-")]
    assert read == [(name, value.strip(b" \t")) for name, value in clean]
    received = b"".join(bytes(event.data) for event in events if isinstance(event, h11.Data))
    assert received == (b"" if head.method == "HEAD" or status in {204, 304} else body)
    assert all(isinstance(event, h11.Data) for event in events[1:-1])
    assert (len(list(last.headers)) == 1) == (head is _TRAILERS and status not in {204, 304})


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=4))
def test_chunks_are_put_together_to_the_body(body: bytes, cuts: list[int]) -> None:
    parts = [body[start:stop] for start, stop in pairwise([0, *sorted(cuts), len(body)]) if start <= stop]
    events = _read(_MODERN, _send(_MODERN, 200, [], parts, None))
    received = b"".join(bytes(event.data) for event in events if isinstance(event, h11.Data))
    assert received == b"".join(parts)
