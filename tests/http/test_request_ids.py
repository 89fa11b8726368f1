"""Request ids, and W3C Trace Context."""

from __future__ import annotations

import re

import pytest

from app.http.request_ids import continue_trace, passed_on_state, request_id

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("given", [b"a", b"A-b_c.9", b"x" * 64])
def test_the_id_of_the_client_is_kept(given: bytes) -> None:
    assert request_id(given) == given.decode()


@pytest.mark.parametrize(
    "given",
    [
        None,
        b"",
        b"x" * 65,
        b"a b",
        b" a",
        b"a\n",
        b"a\r\nx: y",
        b"a/b",
        b'"a"',
        b"a,b",
        "é".encode(),
        b"\xff",
        b"a\x00",
    ],
)
def test_an_id_that_is_missing_or_not_allowed_is_replaced(given: bytes | None) -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", request_id(given))


def test_new_ids_differ() -> None:
    assert len({request_id(None) for _ in range(1000)}) == 1000


def test_a_trace_is_continued_by_a_span_of_our_own() -> None:
    trace = continue_trace(f"00-{TRACE}-{SPAN}-01".encode())
    assert trace is not None
    assert (trace.trace_id, trace.parent_id, trace.is_sampled) == (TRACE, SPAN, True)
    assert re.fullmatch(f"00-{TRACE}-(?!{SPAN})[0-9a-f]{{16}}-01", trace.traceparent)
    assert continue_trace(trace.traceparent.encode()) is not None


def test_each_request_of_a_trace_has_its_own_span() -> None:
    spans = {trace.traceparent for _ in range(100) if (trace := continue_trace(f"00-{TRACE}-{SPAN}-00".encode()))}
    assert len(spans) == 100


@pytest.mark.parametrize(("given", "passed_on"), [("00", "00"), ("01", "01"), ("02", "00"), ("ff", "01")])
def test_of_the_flags_only_sampled_is_passed_on(given: str, passed_on: str) -> None:
    trace = continue_trace(f"00-{TRACE}-{SPAN}-{given}".encode())
    assert trace is not None
    assert trace.traceparent.endswith(f"-{passed_on}")
    assert trace.is_sampled is (passed_on == "01")


@pytest.mark.parametrize("given", [f"01-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what-the-future-brings"])
def test_a_later_version_is_read_as_far_as_it_is_known(given: str) -> None:
    trace = continue_trace(given.encode())
    assert trace is not None
    assert trace.traceparent.startswith(f"00-{TRACE}-")


@pytest.mark.parametrize(
    "given",
    [
        "",
        "nonsense",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-011",
        f"01-{TRACE}-{SPAN}-01x",
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\r\nx: y",
        f"cc-{TRACE}-{SPAN}-01-a\nb",
    ],
)
def test_an_invalid_traceparent_is_ignored(given: str) -> None:
    assert continue_trace(given.encode()) is None


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [
        (b"a=1", b"a=1"),
        (b" a=1 ,\tb@c=~ x, ,", b"a=1,b@c=~ x"),
        (b"a=" + b"x" * 256, b"a=" + b"x" * 256),
        (b"a=" + b"x" * 250 + b",b=" + b"x" * 250 + b",c=1234", b"a=" + b"x" * 250 + b",b=" + b"x" * 250 + b",c=1234"),
        (b",".join([b"a=" + b"x" * 250] * 3), None),
        (b",".join(b"a%d=1" % number for number in range(32)), b",".join(b"a%d=1" % number for number in range(32))),
        (b",".join(b"a%d=1" % number for number in range(33)), None),
        (b"a=1,b=2,a=3", None),
        (b"a=", None),
        (b"", None),
        (b" , ", None),
        (b"a", None),
        (b"A=1", None),
        (b"a=1,b", None),
        (b"a=1=2", None),
        (b"a=\xe9", None),
        (b"a=1\r\nx: y", None),
    ],
)
def test_the_callers_state_is_passed_on_as_it_came_or_not_at_all(given: bytes, passed_on: bytes | None) -> None:
    assert passed_on_state(given) == passed_on


def test_without_traceparent_there_is_no_trace() -> None:
    assert continue_trace(None) is None
