"""What a client prefers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.http.prefer import Preferences, parse_prefer, preference_applied

_NONE = Preferences()
_ASYNC = Preferences(respond_async=True)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (None, _NONE),
        ("", _NONE),
        (" , ,", _NONE),
        ("respond-async", _ASYNC),
        ("Respond-ASYNC", _ASYNC),
        ('respond-async=""', _ASYNC),
        ("respond-async=", _ASYNC),
        ("respond-async=yes", _NONE),
        ("respond-async; foo=bar ; baz", _ASYNC),
        ("respond-async;", _ASYNC),
        ("wait=10", Preferences(wait=10)),
        ("WAIT = 10", Preferences(wait=10)),
        ('wait="10"', Preferences(wait=10)),
        ('wait="1\\0"', Preferences(wait=10)),
        ("wait=0", Preferences(wait=0)),
        ("wait=99999999999999999999", Preferences(wait=10**9)),
        ("wait=010", Preferences(wait=10)),
        ("respond-async, wait=10", Preferences(respond_async=True, wait=10)),
        ("wait=10,respond-async", Preferences(respond_async=True, wait=10)),
        ("return=minimal, wait=3, handling=lenient", Preferences(wait=3)),
        ("wait=1, wait=2", Preferences(wait=1)),
        ("wait=x, wait=2", _NONE),
        ("respond-async=no, respond-async", _NONE),
        ("wait", _NONE),
        ("wait=-1", _NONE),
        ("wait=1.5", _NONE),
        ("wait=1 0", _NONE),
        ("wait=\N{ARABIC-INDIC DIGIT ONE}", _NONE),
        ('foo="a, respond-async, \\", wait=5", wait=7', Preferences(wait=7)),
        ('foo;bar="a, respond-async", wait=7', Preferences(wait=7)),
        ('foo="never closed, respond-async', _NONE),
        ('foo="never closed\\', _NONE),
        ('fo"o, respond-async', _NONE),
        ('fo"o" x, respond-async', _ASYNC),
        ("f(o), respond-async", _ASYNC),
        ("=, ;, wait=1;=, respond-async", _ASYNC),
        (f"respond-async, x={'x' * 4079}", _ASYNC),
        (f"respond-async, x={'x' * 4080}", _NONE),
        ("respond-async x", _NONE),
        ("wait==5", _NONE),
    ],
)
def test_a_field_is_taken_apart(field: str | None, expected: Preferences) -> None:
    assert parse_prefer(field) == expected


@given(st.text(' ,;="\\ax10-', max_size=80), st.integers(0, 999), st.booleans())
@settings(max_examples=300, deadline=None)
def test_what_is_given_first_counts_whatever_follows(rest: str, seconds: int, also: bool) -> None:
    field = f"wait={seconds}{', Respond-Async' * also}, {rest}"
    assert parse_prefer(field) == Preferences(also, seconds)


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_nothing_in_a_field_is_an_error(field: str) -> None:
    parse_prefer(field)


@given(st.booleans(), st.none() | st.integers(0, 10**9))
@settings(max_examples=50, deadline=None)
def test_what_was_done_is_told_in_the_same_words(respond_async: bool, wait: int | None) -> None:
    applied = Preferences(respond_async, wait)
    value = preference_applied(applied)
    assert (value is None) == (applied == _NONE)
    assert parse_prefer(value) == applied


def test_the_words() -> None:
    assert preference_applied(Preferences(respond_async=True, wait=2.0)) == "respond-async, wait=2"
