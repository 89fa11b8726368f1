"""Which media type a client gets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.http.negotiation import preferred

_OFFERED = ("application/json", "application/x-ndjson", "text/csv")
_JSON, _NDJSON, _CSV = _OFFERED


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, _JSON),
        ("", _JSON),
        ("*/*", _JSON),
        ("application/*", _JSON),
        ("text/*", _CSV),
        ("text/html,application/xhtml+xml,*/*;q=0.8", _JSON),
        ("text/csv", _CSV),
        ("TEXT/CSV", _CSV),
        ("application/x-ndjson", _NDJSON),
        ("application/x-ndjson, */*", _NDJSON),
        ("*/*, application/x-ndjson", _NDJSON),
        ("text/csv;q=0.5, application/x-ndjson;q=0.6", _NDJSON),
        ("text/csv;q=0.5, application/x-ndjson;q=0.4", _CSV),
        ("application/json;q=0, */*", _NDJSON),
        ("application/*;q=0.1, text/csv;q=0.01", _JSON),
        ("application/x-ndjson;q=0", _JSON),
        ("text/csv;q=0, application/*;q=0", _JSON),
        ("image/png", _JSON),
        ("text/csv;charset=utf-8", _CSV),
        ("text/csv; q=0.9 , application/x-ndjson ; q=0.91", _NDJSON),
        ("text/csv;q=1.5, application/x-ndjson;q=0.9", _NDJSON),  # no weight: as if the range were not given
        ("text/csv;q=2, application/x-ndjson;q=0.1", _NDJSON),
        ("text/csv;q=0.1234, application/x-ndjson;q=0.1", _NDJSON),
        ("text/csv;Q=-1, application/x-ndjson;q=0.1", _NDJSON),
        ("text/csv;q, application/x-ndjson;q=0.1", _NDJSON),
        ("text/csv;q= 1, application/x-ndjson;q=0.1", _NDJSON),
        ("text/csv;q=1.000;q=x, application/x-ndjson;q=0.1", _NDJSON),
        ("text/csv;q=2", _JSON),
        ("text/csv;q=1.000, application/x-ndjson;q=0.999", _CSV),
        ("text/csv;quality=2, application/x-ndjson;q=0.9", _CSV),
        ("csv, /, text/, ;q=1, text/csv;q=0.2", _CSV),
        ("text/csv, application/json", _JSON),
    ],
)
def test_the_type_with_the_highest_weight_is_preferred(accept: str | None, expected: str) -> None:
    assert preferred(accept, _OFFERED) == expected


@given(st.text(alphabet="*/aq=;, .01csvtext", max_size=80))
@settings(max_examples=200, deadline=None)
def test_any_accept_gets_something_that_is_offered(accept: str) -> None:
    assert preferred(accept, _OFFERED) in _OFFERED
