"""Steps on one record at a time."""

from __future__ import annotations

import json

import pytest

from app.transforms.events import on_each_record


def test_without_steps_all_pass_as_they_are() -> None:
    assert on_each_record([])(b"[1,2]") == b"[1,2]"


def test_each_record_for_itself() -> None:
    run = on_each_record(["where:level == error", "rename:msg=text", "drop:level"])
    assert run(b'{"level":"error","msg":"a","n":1.00}') == b'{"text":"a","n":1.00}'
    assert run(b'{"level":"info","msg":"a"}') is None
    assert run(b'{"msg":"a"}') is None


@pytest.mark.parametrize("record", [b"1", b"[]", b'"a"', b"null"])
def test_what_is_no_object_is_left_out_and_the_next_is_not(record: bytes) -> None:
    run = on_each_record(["select:a"])
    for _ in range(3):
        assert run(record) is None
        assert json.loads(run(b'{"a":1,"b":2}') or b"") == {"a": 1}


@pytest.mark.parametrize("steps", [["head:1"], ["skip:1"], ["distinct:a"], ["upper"], ["select"], ["where:"]])
def test_steps_that_remember_or_are_none_are_refused(steps: list[str]) -> None:
    with pytest.raises(ValueError, match="step 1"):
        on_each_record(steps)
