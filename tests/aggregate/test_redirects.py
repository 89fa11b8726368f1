"""Where a redirect leads: whatever it says, to an address of HTTP or nowhere, and with no secret."""

from __future__ import annotations

import h11
import httpcore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.aggregate.redirects import fields_for, follow

_FROM = httpcore.URL("https://a.example:8443/b/c?d")


@pytest.mark.parametrize(
    ("location", "scheme", "host", "port", "target"),
    [
        (b"/x?y", b"https", b"a.example", 8443, b"/x?y"),
        (b"x", b"https", b"a.example", 8443, b"/b/x"),
        (b"?z", b"https", b"a.example", 8443, b"/b/c?z"),
        (b"//other", b"https", b"other", 443, b"/"),
        (b"HTTPS://Other:1/x#fragment", b"https", b"other", 1, b"/x"),
        (b"https://[2606::1]/", b"https", b"2606::1", 443, b"/"),
        (b'/\xc3\xa9 "<', b"https", b"a.example", 8443, b"/%C3%A9%20%22%3C"),
    ],
)
def test_a_location_is_where_it_leads(location: bytes, scheme: bytes, host: bytes, port: int, target: bytes) -> None:
    url = follow(_FROM, location)
    assert url is not None
    assert (url.scheme, url.host, url.port, url.target) == (scheme, host, port, target)


@pytest.mark.parametrize(
    "location",
    [b"http://a.example:8443/", b"ftp://a/", b"file:///etc/passwd", b"javascript:1", b"https://[/", b"//a:x/"],
)
def test_nobody_goes_there(location: bytes) -> None:
    assert follow(_FROM, location) is None


def test_an_address_of_ipv6_is_left_and_kept() -> None:
    before = httpcore.URL(scheme="http", host="::1", port=81, target="/a/b")
    url = follow(before, b"c")
    assert url is not None
    assert (url.origin, url.target) == (before.origin, b"/a/c")


@settings(max_examples=300, deadline=None)
@given(location=st.binary(max_size=40) | st.text("http:/\\@#?[]%.0x: \r\n", max_size=30).map(str.encode))
def test_whatever_it_says_is_an_address_or_none(location: bytes) -> None:
    url = follow(_FROM, location)
    if url is not None:
        assert url.scheme == b"https"
        host = next(value for name, value in fields_for((), httpcore.URL("http://x/"), url) if name == b"host")
        h11.Request(method="GET", target=url.target, headers=[(b"host", host)])  # which refuses what is none


def test_another_origin_learns_nothing_of_the_sources_own() -> None:
    fields = [(b"host", b"a.example"), (b"accept", b"x"), (b"authorization", b"secret"), (b"x-request-id", b"1")]
    other = httpcore.URL("https://b.example/")
    assert fields_for(fields, _FROM, other) == ((b"host", b"b.example"), (b"accept", b"x"), (b"x-request-id", b"1"))
    same = httpcore.URL("https://a.example:8443/x")
    assert fields_for(fields, _FROM, same) == fields
