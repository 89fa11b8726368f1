"""Requests for tasks, taken apart."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.compute.registry import DEFAULT_TASK, parse_request
from app.errors import BadJson, InvalidArguments

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


def mistakes(raw: bytes) -> dict[str, str]:
    with pytest.raises(InvalidArguments) as caught:
        parse_request(raw)
    errors = caught.value.members["errors"]
    assert isinstance(errors, list)
    assert all(error["field"] in caught.value.detail for error in errors)
    return {error["field"]: error["detail"] for error in errors}


@pytest.mark.parametrize(
    ("raw", "name", "args"),
    [
        (b'{"task":"a"}', "a", b""),
        (b' {"task" : "a" , "args" : { } } ', "a", b"{ }"),
        (b'{"args":{"n":[1,{"b":2}]},"task":"sha256"}', "sha256", b'{"n":[1,{"b":2}]}'),
        (b'{"\\u0074ask":"\\u0061"}', "a", b""),
        ('{"task":"é","args":{"é":1}}'.encode(), "é", '{"é":1}'.encode()),
        (b'{"task":""}', "", b""),
    ],
)
def test_a_request_names_a_task(raw: bytes, name: str, args: bytes) -> None:
    assert parse_request(raw) == (name, args)
    viewed_name, viewed = parse_request(memoryview(raw))
    assert (viewed_name, bytes(viewed)) == (name, args)


def test_arguments_are_not_looked_into() -> None:
    raw = b'{"task":"a","args":{"n":1e999,"n":{"huge":%b}}}' % (b"1" * 5000)
    assert parse_request(raw) == ("a", raw.removeprefix(b'{"task":"a","args":').removesuffix(b"}"))


def test_the_arguments_of_a_view_are_not_copied() -> None:
    raw = bytearray(b'{"task":"a","args":{"n":1}}')
    _, args = parse_request(memoryview(raw))
    raw[raw.index(b"1")] = ord("2")
    assert bytes(args) == b'{"n":2}'


@pytest.mark.parametrize(
    "raw", [b"", b" \r\n\t", b" " * 10_000, b"{}", b"[]", b'{"n":1}', b'{"args":{"n":1}}', b"[1,[2]]"]
)
def test_the_body_of_the_original_runs_the_default(raw: bytes) -> None:
    assert parse_request(raw) == parse_request(memoryview(raw)) == (DEFAULT_TASK, b"")


@pytest.mark.parametrize("raw", [b'{"args":3}', b'{"args":{"n":1},"x":1}', b'{"tasks":"a"}', b'{"x":{"task":1}}'])
def test_whatever_an_object_without_a_task_contains(raw: bytes) -> None:
    assert parse_request(raw) == (DEFAULT_TASK, b"")


@pytest.mark.parametrize("raw", [b"3", b'"task"', b"null", b" true ", b"-0.5"])
def test_what_is_neither_object_nor_array(raw: bytes) -> None:
    with pytest.raises(BadJson, match="wanted is an object"):
        parse_request(raw)


def test_each_member_that_is_wrong_is_named() -> None:
    assert set(mistakes(b'{"task":3,"args":[]}')) == {"task", "args"}
    assert set(mistakes(b'{"task":null}')) == {"task"}
    assert set(mistakes(b'{"task":"a","args":null}')) == {"args"}
    assert set(mistakes(b'{"arg":{},"task":"a","wait":3,"args":{}}')) == {"arg", "wait"}


def test_many_members_that_are_wrong_are_not_all_told() -> None:
    raw = json.dumps({"task": "a"} | {f"{at}" * 100: at for at in range(120)}).encode()
    told = mistakes(raw)
    assert 10 < len(told) <= 100
    assert max(map(len, told)) <= 101


@pytest.mark.parametrize("name", ["x", "a `b`", "new\nline", "é" * 300])
def test_of_a_large_request_the_first_member_that_is_wrong_is_told(name: str) -> None:
    raw = json.dumps({"task": "a", "args": {"n": [0] * 50_000}, name: 1, "other": 2}, ensure_ascii=False).encode()
    assert set(mistakes(raw)) == {name[:100]}


@pytest.mark.parametrize(
    ("raw", "offset"),
    [
        (b"{", 1),
        (b"[1,]", 3),
        (b'{"task":"a"} x', 13),
        (b'{"task":"a","x":1,"y":01}', 23),
        (b'{"x":NaN}', 5),
        (b"[Infinity]", 1),
        (b"[-Infinity]", 2),
        (b"NaN", 0),
        (b"x", 0),
        (b'{"x":"\xff"}', 6),
        (b'["\xed\xa0\x80"]', 2),
        (b'["%b\xc3"]' % ("é" * 700_000).encode(), 1_400_002),
        (b'["%b\xe2\x82x"]' % (b"a" * (2**20 - 4)), 2**20 - 2),
        (b'{"task":"\\ud800"}', 15),
        (b"\xef\xbb\xbf{}", 0),
        (b'{"task":"a","args":{"n":1}', 26),
        (b"'a'", 0),
        (b"[1]\0", 3),
    ],
)
def test_malformed_json_is_told_with_its_offset(raw: bytes, offset: int) -> None:
    for body in (raw, memoryview(raw)):
        with pytest.raises(BadJson, match=r"at byte \d+: ") as caught:
            parse_request(body)
        assert caught.value.members["offset"] == offset


@pytest.mark.parametrize("start", [b"[", b'{"a":', b'{"task":"a","args":{"n":[', b'{"task":'])
def test_nesting_that_a_stack_does_not_take(start: bytes) -> None:
    depth = 300_000
    with pytest.raises(BadJson, match="nested too deeply"):
        parse_request(start + b"[" * depth)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text('{}[]"task:args,-1e.0 null\\ud8', max_size=60).map(str.encode))
@example(b'{"task":"a","args":{"\\ud800":1}}')
def test_whatever_comes_is_taken_apart_or_refused_in_our_words(raw: bytes) -> None:
    try:
        name, args = parse_request(raw)
    except (BadJson, InvalidArguments):
        return
    assert isinstance(name, str)
    assert not args or bytes(args[:1]) == b"{"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=20), st.dictionaries(st.text(max_size=6), JSON, max_size=4), st.booleans())
def test_what_is_encoded_is_found(name: str, args: dict[str, object], ascii_only: bool) -> None:
    raw = json.dumps({"args": args, "task": name}, ensure_ascii=ascii_only).encode()
    found, found_args = parse_request(raw)
    assert (found, json.loads(bytes(found_args))) == (name, args)


@settings(max_examples=200, deadline=None)
@given(JSON, st.integers(0, 200))
def test_what_python_takes_for_json_is_well_formed_and_nothing_shorter_of_it(value: object, cut: int) -> None:
    raw = json.dumps([value], ensure_ascii=False).encode()
    assert parse_request(raw) == (DEFAULT_TASK, b"")
    if 0 < cut < len(raw):
        with pytest.raises(BadJson):
            parse_request(raw[:-cut])


def test_a_large_body_is_not_turned_into_objects() -> None:
    """An array of small things, of which each would be an object."""
    raw = b"[" + b"1," * 2_000_000 + b"1]"
    blocks = sys.getallocatedblocks()
    assert parse_request(memoryview(raw)) == (DEFAULT_TASK, b"")
    assert sys.getallocatedblocks() - blocks < 10_000
