"""The key by which a client sends a request again, and what makes requests the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadIdempotencyKey
from app.http.idempotency import Fingerprint, parse_key

_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))


@pytest.mark.parametrize(
    ("field", "key"),
    [
        (None, None),
        ("abc", "abc"),
        ('"abc"', "abc"),
        (' \t"abc" ', "abc"),
        (" abc ", "abc"),
        ('"a\\"b\\\\c"', 'a"b\\c'),
        ("a\\b", "a\\b"),
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ("x" * 255, "x" * 255),
        (f'"{"x" * 255}"', "x" * 255),
    ],
)
def test_a_key_is_bare_or_quoted(field: str | None, key: str | None) -> None:
    assert parse_key(field) == key


@pytest.mark.parametrize(
    "field",
    [
        *("", " ", '""', '"', '"abc', '"a"b"', '"abc";x=1', '"a", "b"', '"a b"', "a b", "a, b", '"\\a"', "é", '"é"'),
        *("a\x7f", "a\0", "x" * 256, f'"{"x" * 256}"', "a\n", '"abc"\n'),
    ],
)
def test_anything_else_is_refused(field: str) -> None:
    with pytest.raises(BadIdempotencyKey):
        parse_key(field)


@given(st.text(_VISIBLE, min_size=1, max_size=255))
@settings(max_examples=200, deadline=None)
def test_any_key_may_be_quoted(key: str) -> None:
    quoted = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert parse_key(quoted) == key
    if not key.startswith('"'):
        assert parse_key(key) == key


_REQUESTS = st.tuples(st.lists(st.text(max_size=5), max_size=3), st.binary(max_size=10))


def _fingerprint(words: list[str], *chunks: bytes) -> str:
    fingerprint = Fingerprint(*words)
    for chunk in chunks:
        fingerprint.feed(chunk)
    return fingerprint.value()


@given(_REQUESTS, _REQUESTS, st.integers(0, 10))
@settings(max_examples=200, deadline=None)
def test_only_the_same_request_has_the_same_fingerprint(
    one: tuple[list[str], bytes], other: tuple[list[str], bytes], cut: int
) -> None:
    words, body = one
    assert _fingerprint(words, body[:cut], body[cut:]) == _fingerprint(words, body)
    assert (_fingerprint(words, body) == _fingerprint(other[0], other[1])) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((["ab", "c"], b""), (["a", "bc"], b"")),
        ((["a"], b"1:b;"), (["a", "b"], b"")),
        ((["a;"], b""), (["a"], b";")),
        (([], b"x"), (["x"], b"")),
    ],
)
def test_no_word_goes_over_into_what_follows(one: tuple[list[str], bytes], other: tuple[list[str], bytes]) -> None:
    assert _fingerprint(one[0], one[1]) != _fingerprint(other[0], other[1])


def test_a_fingerprint_has_64_digits() -> None:
    assert len(_fingerprint(["POST", "/"], b"x")) == 64
