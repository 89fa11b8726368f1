"""Addresses with placeholders: what is one, and that no value gets out of its place."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.config.url_template import parse_url_template
from app.errors import BadRequest

_TEMPLATE = parse_url_template("https://Example.com:8443/users/{id}/x?q={q}&same={id}&z=%20")
_VALUES = st.text(max_size=20).filter(lambda text: not any("\ud800" <= each <= "\udfff" for each in text))


def test_an_address_is_taken_apart_once() -> None:
    assert (_TEMPLATE.scheme, _TEMPLATE.host, _TEMPLATE.port) == ("https", "example.com", 8443)
    assert (_TEMPLATE.names, _TEMPLATE.in_path) == (("id", "q"), {"id"})
    assert _TEMPLATE.authority == "example.com:8443"


@pytest.mark.parametrize(
    ("text", "authority", "target"),
    [
        ("http://a", "a", "/"),
        ("http://a:80", "a", "/"),
        ("https://a:80/", "a:80", "/"),
        ("http://[2606:4700::1]/?", "[2606:4700::1]", "/"),
        ("http://a?b", "a", "/?b"),
        ("http://a/b/?c=%7B", "a", "/b/?c=%7B"),
    ],
)
def test_addresses_without_placeholders(text: str, authority: str, target: str) -> None:
    template = parse_url_template(text)
    assert (template.authority, template.fill({}), template.names) == (authority, target, ())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com",
        "ftp://a/",
        "//a/",
        "http:///a",
        "http://{host}/",
        "http://a:{port}/",
        "http://user@a/",
        "http://a/#b",
        "http://a/ b",
        "http://é/",
        "http://a/é",
        "http://a/{",
        "http://a/}",
        "http://a/{}",
        "http://a/{{b}}",
        "http://a/{1}",
        "http://a/{b c}",
        "http://a/b/../c",
        "http://a/.",
        "http://a:99999/",
        "http://[::1/",
        'http://a/"b"',
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse_url_template(text)


@settings(max_examples=300, deadline=None)
@given(id=_VALUES, q=_VALUES)
def test_a_value_stays_in_its_place(id: str, q: str) -> None:
    assume(id not in {"", ".", ".."})
    target = _TEMPLATE.fill({"id": id, "q": q, "other": "?"})
    assert target.isascii()
    assert target.isprintable()
    parts = urlsplit(target)
    assert parts.path.split("/")[:2] == ["", "users"]
    assert [unquote(each) for each in parts.path.split("/")[2:]] == [id, "x"]
    assert parse_qsl(parts.query, keep_blank_values=True) == [("q", q), ("same", id), ("z", " ")]
    assert parts.fragment == ""


@pytest.mark.parametrize("values", [{}, {"id": "1"}, {"q": "1"}, {"id": "", "q": ""}])
def test_what_is_missing_is_told(values: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        _TEMPLATE.fill(values)


@pytest.mark.parametrize("id", [".", ".."])
def test_a_value_is_no_way_up(id: str) -> None:
    with pytest.raises(BadRequest, match=r"\. or \.\."):
        _TEMPLATE.fill({"id": id, "q": ""})
    assert _TEMPLATE.fill({"id": "...", "q": id}).endswith(f"q={id}&same=...&z=%20")


def test_two_values_together_are_no_way_up_either() -> None:
    template = parse_url_template("http://a/{b}{c}/d")
    with pytest.raises(BadRequest):
        template.fill({"b": ".", "c": "."})
