"""Paths into JSON: how they are written."""

from __future__ import annotations

import pytest

from app.config.json_path import parse_json_path


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("a", ("a",)),
        ("a.b", ("a", "b")),
        (".a", ("a",)),
        ("$.a", ("a",)),
        ("$[0]", (0,)),
        ("[0][-1]", (0, -1)),
        ("a[0].b", ("a", 0, "b")),
        ('a["b.c"]["\\u00e9\\""]', ("a", "b.c", 'é"')),
        ('[""]', ("",)),
        ("é-1", ("é-1",)),
        ("0", ("0",)),
    ],
)
def test_paths(text: str, steps: tuple[str | int, ...]) -> None:
    assert parse_json_path(text).steps == steps


@pytest.mark.parametrize(
    "text",
    ["", "$", ".", "a.", "a..b", "a b", "[", "[]", "[a]", "[1.5]", "a]", '["]', "$a", "a[0]b", "[--1]", '["\\x"]'],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json_path(text)
