"""``Retry-After``: seconds or a date."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.http.retry_after import parse_retry_after


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        ("0", 0),
        (" 120 ", 120),
        ("9" * 400, 1e9),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40),
        ("Thu, 01 Jan 1970 00:00:40 GMT", 0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("１２", None),
    ],
)
def test_how_long_to_wait(field: str, seconds: float | None) -> None:
    assert parse_retry_after(field, 60) == seconds


@given(field=st.text(max_size=40))
def test_whatever_it_says_is_read(field: str) -> None:
    seconds = parse_retry_after(field, 60)
    assert seconds is None or seconds >= 0
