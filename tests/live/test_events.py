"""Ids, types, topics, and how events look on the wire."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadJson, BadRequest, BodyTooLarge
from app.live.events import MAX_DATA, Event, EventId, check_topic, check_type, gap, parse_id
from app.live.horizon import Bounds, Head, Stored, expired
from app.live.origins import Origins
from app.live.service import compact


@given(st.from_regex(r"[0-9a-f]{1,16}", fullmatch=True), st.integers(0, 10**18 - 1))
def test_an_id_is_read_as_it_was_written(epoch: str, sequence: int) -> None:
    assert parse_id(str(EventId(epoch, sequence))) == EventId(epoch, sequence)


@pytest.mark.parametrize("text", ["", "1", "a-", "-1", "A-1", "a-1 ", "a-1\n", "a--1", "a-1-1", "g-1", f"a-{10**18}"])
def test_what_is_no_id_is_none(text: str) -> None:
    assert parse_id(text) is None


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\n\0"), min_size=1, max_size=20))
def test_both_ways_say_the_same(kind: str) -> None:
    event = Event(EventId("ab", 7), kind, b'{"a":"\\n"}')
    assert event.sse == b'id: ab-7\nevent: %b\ndata: {"a":"\\n"}\n\n' % kind.encode()
    assert json.loads(event.message) == {"id": "ab-7", "event": kind, "data": {"a": "\n"}}


def test_it_is_encoded_once() -> None:
    event = Event(EventId("ab", 7), "message", b"1")
    assert event.sse is event.sse
    assert event.message is event.message


def test_a_notice_has_no_id_so_that_the_last_one_stays() -> None:
    notice = gap("ab-1", EventId("ab", 9), "behind the horizon")
    assert notice.sse == b'event: gap\ndata: {"after":"ab-1","before":"ab-9","reason":"behind the horizon"}\n\n'
    assert json.loads(notice.message)["id"] is None


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "x" * 128, "..."])
def test_what_a_topic_may_be_called(name: str) -> None:
    assert check_topic(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "ä", "a/b", "x" * 129, "a\n"])
def test_what_no_topic_is_called(name: str) -> None:
    with pytest.raises(BadRequest):
        check_topic(name)


def test_types() -> None:
    assert (check_type(None), check_type("ä b:c")) == ("message", "ä b:c")
    for bad in ("", "a\nb", "a\rb", "a\0", "x" * 129, "\ud800", "gap", "lagged"):
        with pytest.raises(BadRequest):
            check_type(bad)


def test_whitespace_between_parts_goes_and_all_else_stays() -> None:
    given = b' {"a" : 1.00e+5,\r\n "b":[ 1 , 2 ], "c":"x\\u00e9 \\n", "a":12345678901234567890123 } '
    assert compact(given) == b'{"a":1.00e+5,"b":[1,2],"c":"x\\u00e9 \\n","a":12345678901234567890123}'


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(json_values, st.sampled_from([None, 2, "\t"]))
def test_an_event_is_one_line_of_the_same_json(value: object, indent: int | str | None) -> None:
    data = compact(json.dumps(value, indent=indent).encode())
    assert json.loads(data) == value
    assert not {b"\n"[0], b"\r"[0]} & set(data)


@pytest.mark.parametrize(("given", "offset"), [(b"", 0), (b'{"a":1', 6), (b"[1,]", 3), (b'"\xff"', 1)])
def test_what_is_no_json_is_told_with_its_offset(given: bytes, offset: int) -> None:
    with pytest.raises(BadJson) as caught:
        compact(given)
    assert caught.value.members == {"offset": offset}


def test_an_event_may_have_64_kib() -> None:
    assert len(compact(b'"' + b"x" * (MAX_DATA - 2) + b'"')) == MAX_DATA
    with pytest.raises(BodyTooLarge):
        compact(b'"' + b"x" * (MAX_DATA - 1) + b'"')


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 100)), max_size=30),
    st.integers(1, 20),
    st.integers(1, 300),
    st.integers(1, 100),
)
def test_the_horizon_keeps_just_what_the_bounds_allow(
    events: list[tuple[int, int]], most: int, most_bytes: int, seconds: int
) -> None:
    total, stored = 0, list[Stored]()
    for sequence, (size, created) in enumerate(events, 1):
        total += size
        stored.append(Stored(sequence, size, total, float(created)))
    last = expired(stored, Head("e", len(stored), total), Bounds(most, most_bytes, seconds), 100.0) or 0

    def allowed(kept: list[Stored]) -> bool:
        return len(kept) <= most and sum(one.size for one in kept) <= most_bytes and 100.0 - kept[0].created <= seconds

    kept = [one for one in stored if one.sequence > last]
    assert not kept or allowed(kept)
    if last:
        assert not allowed(stored[last - 1 :])


def test_origins() -> None:
    none, some, any_ = Origins([]), Origins(["https://a.example"]), Origins(["*"])
    assert none.fields("https://a.example") == ()
    assert some.fields("https://b.example") == ((b"vary", b"Origin"),)
    assert (b"access-control-allow-origin", b"https://a.example") in some.fields("https://a.example")
    assert (b"access-control-allow-origin", b"https://b.example") in any_.fields("https://b.example")
    assert some.may_connect(None, "h")
    assert none.may_connect("http://h:1", "h:1")
    assert not none.may_connect("http://h:2", "h:1")
    assert not some.may_connect("null", "h")
    assert some.may_connect("https://a.example", "h")
    assert len(some.preflight("https://b.example", b"GET")) == 1
