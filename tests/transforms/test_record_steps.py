"""The steps on NDJSON records, against a model on lists of dictionaries."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.transforms.record_steps import STEPS
from app.transforms.step import MAX_RECORD_BYTES, BadArguments, Malformed, Transformer
from tests.transforms.driving import Outcome, corrupted, cuts, quick, run, steps
from tests.transforms.records import Sample, good_lines, samples, streams, unchanged, written

NAMED = steps(STEPS)


def made(step: str) -> Transformer:
    name, colon, arguments = step.partition(":")
    return NAMED[name].make(arguments if colon else None)


def check(step: str, data: bytes, sizes: list[int], expected: bytes) -> None:
    """The step gives what is expected, whichever way the data is cut, and pickled in between."""
    assert run(made(step), data) == Outcome(expected)
    assert run(made(step), data, sizes) == Outcome(expected)
    assert run(made(step), data, [1]) == Outcome(expected)
    assert run(made(step), data, sizes, pickled=True) == Outcome(expected)


def renamed(record: dict[str, str], names: dict[str, str]) -> dict[str, str]:
    return {names.get(name, name): value for name, value in record.items()}


@quick
@given(streams(), cuts)
def test_select_gives_the_fields_in_the_order_asked_for(stream: tuple[bytes, list[Sample]], sizes: list[int]) -> None:
    data, records = stream
    chosen = [{name: r.members[name] for name in ("é", "x,y", "a") if name in r.members} for r in records]
    check('select:é,"x,y",a', data, sizes, written(chosen))


@quick
@given(streams(), cuts)
def test_drop_leaves_the_other_fields(stream: tuple[bytes, list[Sample]], sizes: list[int]) -> None:
    data, records = stream
    left = [{name: value for name, value in r.members.items() if name not in ("a", 'q"\\')} for r in records]
    check('drop:a,"q\\"\\\\"', data, sizes, written(left))


@quick
@given(streams(), cuts)
def test_rename_keeps_the_place(stream: tuple[bytes, list[Sample]], sizes: list[int]) -> None:
    data, records = stream
    names = {"a": "b", "b": "a", "x,y": "z=1"}
    check('rename:a=b,b=a,"x,y"="z=1"', data, sizes, written([renamed(r.members, names) for r in records]))


def test_rename_to_a_field_that_exists_is_malformed() -> None:
    data = b'{"a":1}\n{"b":1}\n{"a":1,"b":2}\n{"a":1}\n'
    for sizes in ([1], [100]):
        outcome = run(made("rename:a=b"), data, sizes)
        assert outcome == Outcome(b'{"b":1}\n{"b":1}\n', {"record": 3, "offset": 16})
    with pytest.raises(Malformed, match="two fields would be called 'c'"):
        list(made("rename:a=b,b=c").feed(b'{"a":1,"b":2,"c":3}\n'))


def test_rename_to_a_long_name_comes_in_pieces() -> None:
    name = "n" * 100_000
    assert run(made(f"rename:a={name}"), b'{"a":1}\n' * 20).given == written([{name: "1"}] * 20)


@quick
@given(streams(), st.integers(0, 8), cuts)
def test_head_and_skip(stream: tuple[bytes, list[Sample]], count: int, sizes: list[int]) -> None:
    data, records = stream
    check(f"head:{count}", data, sizes, unchanged(records[:count]))
    check(f"skip:{count}", data, sizes, unchanged(records[count:]))


def test_head_is_done_with_its_last_record_and_reads_nothing_behind_it() -> None:
    head = made("head:2")
    assert list(head.feed(b'{"a":1}\n{"a"')) == [b'{"a":1}\n']
    assert not head.done
    assert b"".join(head.feed(b':2}\n{"a":3}\nno JSON\n\xff\n')) == b'{"a":2}\n'
    assert head.done
    assert list(head.feed(b"more")) == []
    assert list(head.finish()) == []
    assert made("head:0").done


@quick
@given(streams(["a"], ["1", "1.0", '"1"', '"a"', '"\\u0061"', "null", "[1]", f'"{"x" * 20}"']), st.integers(1, 3), cuts)
def test_distinct_keeps_the_first_of_each_among_the_last_values(
    stream: tuple[bytes, list[Sample]], window: int, sizes: list[int]
) -> None:
    data, records = stream
    seen: list[str] = []
    kept: list[Sample] = []
    for record in records:
        value = record.members.get("a")
        if value is None:
            kept.append(record)
            continue
        value = value.replace("\\u0061", "a")
        if value in seen:
            seen.remove(value)
        else:
            kept.append(record)
        seen = [*seen, value][-window:]
    check(f"distinct:a:{window}", data, sizes, unchanged(kept))


def test_distinct_counts_a_value_that_is_seen_again_as_the_latest() -> None:
    data = b"".join(b'{"a":%d}\n' % value for value in (1, 2, 1, 3, 1, 2))
    expected = b"".join(b'{"a":%d}\n' % value for value in (1, 2, 3, 2))
    check("distinct:a:2", data, [10], expected)


def test_distinct_holds_no_more_than_its_window() -> None:
    data = b"".join(b'{"a":"%050d"}\n' % number for number in range(3000))
    small, usual = made("distinct:a:100"), made("distinct:a:10000")
    for step, repeated in ((small, data), (usual, b"")):
        assert b"".join(step.feed(data)) == data
        assert b"".join(step.feed(data)) == repeated
    assert len(pickle.dumps(small)) < 100 * 40 + 1000


@pytest.mark.parametrize(
    "step", ["select:a", "drop:a", "rename:a=b", "where:a!=9", "head:9", "skip:0", "distinct:a", "distinct:zz"]
)
def test_a_small_stream_broken_at_each_position_is_malformed_there_or_means_something_else(step: str) -> None:
    data = '{"a":1.5,"é":["]}"]}\r\n\n {"a":{"b":null}}\n{"b":"\\u00e9"}\n{"a":2}'.encode()
    for broken in corrupted(data, b'"{}\n,\xff0'):
        lines, malformed = good_lines(broken)
        outcome = run(made(step), broken)
        assert run(made(step), broken, [1]) == run(made(step), broken, [5], pickled=True) == outcome
        assert outcome.failed == malformed
        assert run(made(step), b"\n".join(lines)) == Outcome(outcome.given)
        if outcome.members:
            assert outcome.members["record"] == len(lines) + 1


@pytest.mark.parametrize(
    ("data", "record", "offset", "said"),
    [
        (b'{"a":1}\n\n  [1]\n', 2, 11, "not a JSON object, but of type array"),
        (b'{"a":1}\n{"a":01}', 2, 14, "invalid number"),
        (b'{"a":1}\n{"a":1} {"a":2}\n', 2, 16, "trailing characters"),
        (b'{"a":1}\n{"a":"\xff"}\n', 2, 14, "invalid UTF-8"),
        (b'{"a":1}\n{"b":"\xc3"}', 2, 14, "invalid UTF-8"),
        (b'{"a":\n1}\n', 1, 0, "the text ends too soon"),
        (b'{"a":"\\ud800"}\n', 1, 0, "a surrogate lacks its other half"),
        (b'\xef\xbb\xbf{"a":1}\n', 1, 0, "invalid character"),
        (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}\n", 1, 0, "nested too deeply"),
        (b"\x0c\n", 1, 0, "invalid character"),
    ],
)
def test_what_is_wrong_is_said_with_its_record_and_offset(data: bytes, record: int, offset: int, said: str) -> None:
    for sizes in ([1], [3], [len(data)]) if len(data) < 100 else ([100_000],):
        assert run(made("skip:0"), data, sizes).members == {"record": record, "offset": offset}
    with pytest.raises(Malformed, match=re.escape(said)):
        list(made("skip:0").feed(data + b"\n"))


def test_the_longest_record() -> None:
    def text(length: int) -> bytes:
        return b'{"a":"%b"}\n' % (b"x" * (length - 9))

    data = b'{"a":1}\n' + text(MAX_RECORD_BYTES) + b'{"a":2}\n'
    for size in (len(data), 100_000, MAX_RECORD_BYTES):
        assert run(made("skip:0"), data, [size]) == Outcome(data)
    data = b'{"a":1}\n' + text(MAX_RECORD_BYTES + 1) + b'{"a":2}\n'
    for size in (len(data), 100_000, MAX_RECORD_BYTES, 8, 70_000):
        outcome = run(made("skip:0"), data, [size])
        assert outcome == Outcome(b'{"a":1}\n', {"record": 2, "offset": 8 + MAX_RECORD_BYTES})


@quick
@given(samples())
def test_values_pass_byte_for_byte(sample: Sample) -> None:
    given = run(made("drop:none"), sample.text.encode()).given
    assert given == written([sample.members])
    assert json.loads(given) == json.loads(sample.text)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("select", "the name of a field is missing"),
        ("select:", "the name of a field is missing"),
        ("select:a,,b", "the name of a field is missing"),
        ("select:a,b,a", "'a' is named twice"),
        ('select:"a', "the quotes do not end"),
        ('select:"\\x"', "starts like a JSON string, and is none"),
        ('select:"a"b', "written as a JSON string"),
        ("select:\udc80", "not UTF-8"),
        ("drop", "the name of a field is missing"),
        ("rename", "the name of a field is missing"),
        ("rename:a", "'=' belongs"),
        ("rename:a=", "the name of a field is missing"),
        ("rename:=b", "the name of a field is missing"),
        ("rename:a=b=c", "',' belongs"),
        ("rename:a=b,a=c", "'a' is named twice"),
        ("rename:a=c,b=c", "'c' is named twice"),
        ("where", "FIELD OP VALUE, with OP one of == != < <= > >= ~"),
        ("where:a=1", "FIELD OP VALUE"),
        ("where:==1", "FIELD OP VALUE"),
        ('where:"\\x"==1', "starts like a JSON string"),
        ('where:a=="x', "starts like a JSON string"),
        ("where:a~(", "not a regular expression of RE2: missing )"),
        ("where:a~(a)\\1", "not a regular expression of RE2"),
        ("where:a==\udc80", "not UTF-8"),
        ("head", "whole number from 0"),
        ("head:-1", "whole number from 0"),
        ("head:1.5", "whole number from 0"),
        ("head:٣", "whole number from 0"),
        ("head:" + "9" * 19, "whole number from 0 to 999999999999999999"),
        ("skip:x", "whole number from 0"),
        ("distinct", "the name of a field is missing"),
        ("distinct:a:", "whole number from 1 to 10000"),
        ("distinct:a:0", "whole number from 1 to 10000"),
        ("distinct:a:10001", "whole number from 1 to 10000"),
        ('distinct:"a"b', "FIELD or FIELD:WINDOW"),
    ],
)
def test_arguments_that_are_not_understood(step: str, said: str) -> None:
    with pytest.raises(BadArguments, match=re.escape(said)):
        made(step)


def test_all_of_them_run_in_a_process_from_ndjson_to_ndjson() -> None:
    makers: list[Callable[[str | None], Transformer]] = [step.make for step in STEPS]
    assert len(makers) == len(NAMED) == 7
    assert {(step.place, *step.takes, step.gives) for step in STEPS} == {("process", "ndjson", "ndjson")}
