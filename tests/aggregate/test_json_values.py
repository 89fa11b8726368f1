"""What is cut out of an answer: JSON as it is written, at the end of a path."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.aggregate.json_values import NoMatch, NotJson, json_value
from app.config.json_path import JsonPath

_NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=20,
)


def _walks(value: Any) -> st.SearchStrategy[tuple[tuple[str | int, ...], Any]]:
    """Paths into ``value``, and what is there."""
    if isinstance(value, dict) and value:
        entries = list(value.items())
    elif isinstance(value, list) and value:
        entries = list(enumerate(value))
    else:
        return st.just(((), value))
    below = st.sampled_from(entries).flatmap(
        lambda entry: _walks(entry[1]).map(lambda walk: ((entry[0], *walk[0]), walk[1]))
    )
    return st.just(((), value)) | below


@settings(max_examples=200, deadline=None)
@given(data=st.data(), value=_JSON, indent=st.sampled_from([None, 2]))
def test_a_path_leads_where_it_says(data: st.DataObject, value: Any, indent: int | None) -> None:
    steps, wanted = data.draw(_walks(value))
    found = json_value(json.dumps(value, indent=indent).encode(), JsonPath("", steps))
    assert json.loads(found) == wanted
    assert b"\n" not in found


@pytest.mark.parametrize("steps", [("b",), (0,), ("a", 3), ("a", -4), ("a", "0"), ("a", 0, "x")])
def test_where_there_is_nothing(steps: tuple[str | int, ...]) -> None:
    with pytest.raises(NoMatch):
        json_value(b'{"a": [1, 2, 3]}', JsonPath("", steps))


@pytest.mark.parametrize("body", [b"", b"{", b"nul", b"{} {}", b"\xef\xbb\xbf{}", b'"\xc3"', b"[" * 50_000, b"NaN"])
@pytest.mark.parametrize("steps", [(), ("a",)])
def test_what_is_no_json(body: bytes, steps: tuple[str, ...]) -> None:
    with pytest.raises(NotJson):
        json_value(body, JsonPath("", steps))


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=30) | st.text('{}[]":,0.1eE-\\un\n ', max_size=30).map(str.encode))
def test_whatever_comes_is_judged(body: bytes) -> None:
    try:
        found = json_value(body, JsonPath("", ("a", 0)))
    except (NotJson, NoMatch):
        return
    json.loads(found)
