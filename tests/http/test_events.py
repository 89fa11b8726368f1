"""Server-sent events, read as a browser reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.http.events import STREAM_FIELDS, comment, encode_event, parse_last_event_id

_LINES = st.text("a:\r\n \0é", max_size=20)
_LINE = st.text("a: é", max_size=8)


@dataclass
class _Browser:
    """The event stream interpretation of WHATWG HTML 9.2.6."""

    events: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    last_id: str = ""
    retry: int | None = None

    def read(self, stream: bytes) -> None:
        data, event = "", ""
        *lines, rest = re.split("\r\n|\r|\n", stream.decode())
        assert rest == ""  # an event without the empty line behind it is not dispatched
        for line in lines:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line:
                if data:
                    self.events.append((event or "message", data.removesuffix("\n"), self.last_id))
                data, event = "", ""
            elif name == "data":
                data += value + "\n"
            elif name == "event":
                event = value
            elif name == "id" and "\0" not in value:
                self.last_id = value
            elif name == "retry" and re.fullmatch("[0-9]+", value):
                self.retry = int(value)
            else:
                assert line.startswith(":"), line
        assert (data, event) == ("", "")


@given(st.lists(st.tuples(_LINES, st.none() | _LINE, st.none() | _LINE, st.none() | st.integers(0, 9999))))
@settings(max_examples=200, deadline=None)
def test_events_arrive_as_they_were_sent(sent: list[tuple[str, str | None, str | None, int | None]]) -> None:
    browser, last_id, retry = _Browser(), "", None
    stream = b""
    expected: list[tuple[str, str, str]] = []
    for data, id, event, retry_ms in sent:
        stream += encode_event(data, id=id, event=event, retry_ms=retry_ms) + comment(data)
        last_id = last_id if id is None else id
        retry = retry if retry_ms is None else retry_ms
        expected.append((event or "message", re.sub("\r\n|\r", "\n", data), last_id))
    browser.read(stream)
    assert browser.events == expected
    assert (browser.last_id, browser.retry) == (last_id, retry)


def test_the_bytes() -> None:
    assert encode_event(b'{"a":1}') == b'data: {"a":1}\n\n'
    assert encode_event("a\nb", id="7", event="state", retry_ms=1000) == (
        b"retry: 1000\nid: 7\nevent: state\ndata: a\ndata: b\n\n"
    )
    assert comment() == b": \n\n"
    assert comment("so long") == b": so long\n\n"


def test_what_is_no_character_does_not_break_the_stream() -> None:
    assert encode_event("a\ud800") == b"data: a?\n\n"


@pytest.mark.parametrize("bad", ["a\nb", "a\r", "\0"])
def test_a_line_end_in_an_id_or_a_type_is_a_mistake(bad: str) -> None:
    with pytest.raises(ValueError, match="a line end or NUL"):
        encode_event("", id=bad)
    with pytest.raises(ValueError, match="a line end or NUL"):
        encode_event("", event=bad)


def test_no_time_to_wait_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="-1 ms"):
        encode_event("", retry_ms=-1)


@pytest.mark.parametrize(
    ("given", "id"),
    [
        (None, None),
        (b"", None),
        (b"7", "7"),
        ("é".encode(), "é"),
        (b"\xe9", None),
        (b"a\0", None),
        (b"a\nb", None),
        (b"x" * 1024, "x" * 1024),
        (b"x" * 1025, None),
    ],
)
def test_where_a_client_goes_on(given: bytes | None, id: str | None) -> None:
    assert parse_last_event_id(given) == id


def test_a_stream_is_neither_stored_nor_held_back() -> None:
    assert dict(STREAM_FIELDS) == {
        b"content-type": b"text/event-stream",
        b"cache-control": b"no-store",
        b"x-accel-buffering": b"no",
    }
