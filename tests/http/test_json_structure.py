"""The limits of a JSON text's structure, whatever the chunks in which it comes."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadJson
from app.http.json_structure import JsonStructure

type Json = bool | int | float | str | list[Json] | dict[str, Json] | None

VALUES: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text('ab"\\[]{}:,\né\0'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\[{:', max_size=4), inner, max_size=4),
    max_leaves=30,
)
CUTS = st.lists(st.integers(0, 300), max_size=12)
# What matters to the scan, and little else.
HOSTILE = st.text('"\\[]{}:a', max_size=200).map(str.encode)
LIMITS = st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))


def verdict(text: bytes, cuts: list[int], limits: tuple[int, int, int]) -> str | None:
    """What is said of ``text``, cut at ``cuts``."""
    structure = JsonStructure(*limits)
    at = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    try:
        for start, stop in pairwise(at):
            structure.feed(text[start:stop])
    except BadJson as error:
        return error.detail
    return None


def by_the_byte(text: bytes, limits: tuple[int, int, int]) -> str | None:
    """The same, in the simplest way that there is."""
    max_depth, max_string, max_keys = limits
    depth = length = keys = 0
    in_string = escaped = False
    for offset, byte in enumerate(text):
        char = chr(byte)
        ends = in_string and char == '"' and not escaped
        if in_string and not ends:
            length += 1
            if length > max_string:
                return f"a string longer than {max_string} bytes at byte {offset}"
        if escaped and char in '"\\':
            escaped = False
            continue
        escaped = False
        if char == "\\":
            escaped = True
        elif char == '"':
            in_string, length = not in_string, 0
        elif not in_string:
            depth += (char in "[{") - (char in "]}")
            keys += char == ":"
            if keys > max_keys:
                return f"more than {max_keys} members at byte {offset}"
            if depth > max_depth:
                return f"nested deeper than {max_depth} at byte {offset}"
    return None


def depth_of(value: Json) -> int:
    match value:
        case list():
            return 1 + max(map(depth_of, value), default=0)
        case dict():
            return 1 + max(map(depth_of, value.values()), default=0)
        case _:
            return 0


def members_of(value: Json) -> int:
    match value:
        case list():
            return sum(map(members_of, value))
        case dict():
            return len(value) + sum(map(members_of, value.values()))
        case _:
            return 0


@given(HOSTILE, CUTS, LIMITS)
@settings(max_examples=600, deadline=None)
def test_the_verdict_is_that_of_a_look_at_each_byte(text: bytes, cuts: list[int], limits: tuple[int, int, int]) -> None:
    assert verdict(text, cuts, limits) == by_the_byte(text, limits)


@given(st.binary(max_size=300), CUTS, LIMITS)
@settings(max_examples=200, deadline=None)
def test_any_bytes_have_a_verdict(text: bytes, cuts: list[int], limits: tuple[int, int, int]) -> None:
    assert verdict(text, cuts, limits) == by_the_byte(text, limits)


@given(st.text("[]{}", min_size=1, max_size=400).map(str.encode), CUTS, st.integers(0, 30))
@settings(max_examples=400, deadline=None)
def test_depth_is_counted_exactly(text: bytes, cuts: list[int], most: int) -> None:
    assert verdict(text, cuts, (most, 9, 9)) == by_the_byte(text, (most, 9, 9))


@given(VALUES, st.booleans(), CUTS)
@settings(max_examples=300, deadline=None)
def test_json_passes_with_limits_that_it_keeps_and_not_with_any_that_are_lower(
    value: Json, ascii: bool, cuts: list[int]
) -> None:
    text = json.dumps(value, ensure_ascii=ascii, indent=1 if ascii else None).encode()
    depth, members = depth_of(value), members_of(value)
    assert verdict(text, cuts, (depth, len(text), members)) is None
    if depth:
        assert "nested deeper" in (verdict(text, cuts, (depth - 1, len(text), members)) or "")
    if members:
        assert "members" in (verdict(text, cuts, (depth, len(text), members - 1)) or "")
    structure = JsonStructure(depth, len(text), members)
    structure.feed(text)
    structure.finish()


@pytest.mark.parametrize("size", [7, 1000, 64 * 1024, 64 * 1024 + 1, 10**6])
def test_a_large_text_in_chunks_of_any_size(size: int) -> None:
    inner = b'{"a \\" [": [1.5, "\\\\"], "b": "[[[["},' * 3000
    text = b"[" + inner + b'"' + b"x" * 100_000 + b'", ' + b"[" * 63 + b"[" + b"]" * 64 + b"]"
    offset = text.index(b"[" * 64) + 63
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    passing = JsonStructure(max_depth=65, max_string=100_000, max_keys=6000)
    for chunk in chunks:
        passing.feed(chunk)
    passing.finish()
    deep = JsonStructure(max_depth=64)
    with pytest.raises(BadJson, match=f"^nested deeper than 64 at byte {offset}$"):
        for chunk in chunks:
            deep.feed(chunk)
    long = JsonStructure(max_string=99_999)
    end = text.index(b"x", len(inner)) + 99_999
    with pytest.raises(BadJson, match=f"^a string longer than 99999 bytes at byte {end}$"):
        for chunk in chunks:
            long.feed(chunk)


def test_the_limits_that_nobody_names() -> None:
    passing = JsonStructure()
    passing.feed(b"[" * 64 + b"]" * 64)
    passing.feed(b'"' + b"x" * 1024**2 + b'"')
    passing.feed(b'{"a":1}' * 1_000_000)
    with pytest.raises(BadJson, match=r"^more than 1000000 members at byte"):
        passing.feed(b'{"a":1}')
    with pytest.raises(BadJson, match=r"^a string longer than 1048576 bytes at byte 1048577$"):
        JsonStructure().feed(b'"' + b"x" * (1024**2 + 1))
    with pytest.raises(BadJson, match=r"^nested deeper than 64 at byte 64$"):
        JsonStructure().feed(b"[" * 65)


def test_an_empty_chunk_changes_nothing() -> None:
    structure = JsonStructure(max_depth=0)
    for chunk in (b"", b'"', b"", b"\\", b"", b'"', b"", b"[", b"", b'"', b""):
        structure.feed(chunk)
    structure.finish()


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (b'{"a": [1, "b', "the text ends within a string at byte 12"),
        (b'"\\"', "the text ends within a string at byte 3"),
        (b'{"a": [1, "b"', "the text ends before all arrays and objects do at byte 13"),
    ],
)
def test_a_text_that_ends_in_the_middle_is_told(text: bytes, detail: str) -> None:
    structure = JsonStructure()
    structure.feed(text)
    with pytest.raises(BadJson, match=f"^{detail}$"):
        structure.finish()
