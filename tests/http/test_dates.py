"""HTTP dates (RFC 9110 5.6.7): one format is written, three are read."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.http.dates import format_date, parse_date

SECONDS = 784_111_777
deterministic = settings(derandomize=True, deadline=None, max_examples=300)


def test_a_date_is_written_as_imf_fixdate() -> None:
    assert format_date(SECONDS) == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert format_date(0) == "Thu, 01 Jan 1970 00:00:00 GMT"


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "  Sun, 06 Nov 1994 08:49:37 GMT\t",
    ],
)
def test_the_three_formats_are_read(text: str) -> None:
    assert parse_date(text) == SECONDS


@deterministic
@given(st.integers(-(10**9), 10**10))
def test_what_is_written_is_read_back(seconds: int) -> None:
    assert parse_date(format_date(seconds)) == seconds


@deterministic
@given(st.text(max_size=40))
def test_any_text_is_a_date_or_none(text: str) -> None:
    assert parse_date(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "784111777",
        "1994-11-06T08:49:37Z",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "Sun, 06 Nov 1994 08:49:37 GMT; length=7",
        "Sun, 06 Nov 94 08:49:37 GMT",
        "06 Nov 1994 08:49:37 GMT",
        "Son, 06 Nov 1994 08:49:37 GMT",
        "Sun, 31 Nov 1994 08:49:37 GMT",
        "Wed, 29 Feb 2023 00:00:00 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06-Nov-94 08:49:37 GMT, x",
    ],
)
def test_what_is_no_http_date_is_none(text: str) -> None:
    assert parse_date(text) is None


@pytest.mark.parametrize("ahead", [-49, -30, -1, 0, 1, 30, 49, 50])
def test_a_two_digit_year_is_at_most_fifty_years_ahead(ahead: int) -> None:
    year = datetime.now(UTC).year + ahead
    expected = datetime(year, 6, 15, 12, 0, 0, tzinfo=UTC)
    assert parse_date(expected.strftime("%A, %d-%b-%y %H:%M:%S GMT")) == int(expected.timestamp())
