"""Queries, and the parameters that are read off them."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest
from app.http.queries import only, parse_query, whole_number


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=10))
@settings(max_examples=100, deadline=None)
def test_what_a_form_writes_is_read(pairs: list[tuple[str, str]]) -> None:
    expected: dict[str, list[str]] = {}
    for name, value in pairs:
        expected.setdefault(name, []).append(value)
    assert parse_query(urlencode(pairs).encode()) == expected


@pytest.mark.parametrize("raw", [b"", b"&&", b"%", b"%zz=%", b"a=%ff", b"=", b"a=b;c=d", b"\xff=\xfe"])
def test_any_query_can_be_read(raw: bytes) -> None:
    parse_query(raw)


def test_more_parameters_than_anybody_needs_are_refused() -> None:
    with pytest.raises(BadRequest):
        parse_query(b"a&" * 1001)


def test_a_parameter_that_may_be_given_once_is_refused_when_it_is_given_twice() -> None:
    assert only({"a": ["1"]}, "a") == "1"
    assert only({"a": ["1"]}, "b") is None
    with pytest.raises(BadRequest, match="a: "):
        only({"a": ["1", "1"]}, "a")


@pytest.mark.parametrize(("text", "expected"), [("1", 1), ("10", 10), ("07", 7)])
def test_a_whole_number_in_its_bounds_is_read(text: str, expected: int) -> None:
    assert whole_number({"n": [text]}, "n", 1, 10) == expected


@pytest.mark.parametrize("text", ["", "0", "11", "-1", "+1", " 1", "1.0", "1e1", "٣", "²", "0x1", "9" * 5000])
def test_any_other_number_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="n: "):
        whole_number({"n": [text]}, "n", 1, 10)
