"""JSON arrays to NDJSON and back: against `json` on the whole."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.transforms.json_arrays import STEPS, JsonToNdjson, NdjsonToJson
from app.transforms.step import MAX_RECORD_BYTES, BadArguments, Malformed, Transformer
from tests.transforms.driving import Outcome, corrupted, cuts, quick, run, steps, thorough
from tests.transforms.records import Sample, good_lines, is_object, samples, streams

NAMED = steps(STEPS)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('a"\\{}[],: \né'), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "}", "é"]), inner, max_size=3),
    max_leaves=8,
)
spaces = st.sampled_from(["", "", " ", "\n", "\r\n\t", "  \n "])


def to_ndjson() -> Transformer:
    return NAMED["json-to-ndjson"].make(None)


def to_json() -> Transformer:
    return NAMED["ndjson-to-json"].make(None)


def lines_of(data: bytes) -> list[str]:
    return data.decode().split("\n")[:-1]


@thorough
@given(
    st.lists(st.dictionaries(st.sampled_from(["a", "b]"]), values, max_size=3), max_size=5),
    st.sampled_from([None, 0, 1, "\t"]),
    st.booleans(),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\r\n", " : ")]),
    spaces,
    cuts,
)
def test_an_array_gives_its_elements_one_a_line(
    array: list[dict[str, object]],
    indent: int | str | None,
    ascii_only: bool,
    separators: tuple[str, str],
    space: str,
    sizes: list[int],
) -> None:
    text = json.dumps(array, ensure_ascii=ascii_only, indent=indent, separators=separators)
    data = f"{space}{text}{space}".encode()
    outcome = run(to_ndjson(), data)
    assert not outcome.failed
    assert [json.loads(line) for line in lines_of(outcome.given)] == array
    assert run(to_ndjson(), data, sizes) == run(to_ndjson(), data, [1]) == outcome
    assert run(to_ndjson(), data, sizes, pickled=True) == outcome


@quick
@given(st.lists(samples(), max_size=5), cuts)
def test_the_text_of_elements_stays_but_for_line_breaks(records: list[Sample], sizes: list[int]) -> None:
    data = f"[{' , '.join(record.text for record in records)}]".encode()
    expected = "".join(record.text.replace("\r", "") + "\n" for record in records).encode()
    outcome = run(to_ndjson(), data, sizes)
    assert re.sub(rb"[ \t\r]", b"", outcome.given) == re.sub(rb"[ \t\r]", b"", expected)
    if b"\r" not in data:
        assert outcome == Outcome(expected)


@quick
@given(streams(), cuts)
def test_records_give_an_array_and_come_back(stream: tuple[bytes, list[Sample]], sizes: list[int]) -> None:
    data, records = stream
    expected = f"[{',\n'.join(record.text for record in records)}]".encode()
    assert run(to_json(), data) == run(to_json(), data, sizes, pickled=True) == Outcome(expected)
    assert len(json.loads(expected)) == len(records)
    if b"\r" not in expected:
        assert run(to_ndjson(), expected).given.decode() == "".join(record.text + "\n" for record in records)


def by_json(data: bytes) -> list[object] | None:
    """The array of objects that the whole is, or None if it is none."""
    if not is_object(b'{"":%b}' % data):
        return None
    value = json.loads(data)
    return value if isinstance(value, list) and all(isinstance(element, dict) for element in value) else None


def test_a_small_array_broken_at_each_position_is_malformed_or_means_something_else() -> None:
    data = '[{"a":1.5,"é":["]}"]},\n {"a":{"b":[null,{"c":[[[{}]]]}]}},{}\t,{"b":"\\u00e9"}\r\n]\n'.encode()
    assert by_json(data)
    for broken in corrupted(data, b'"{}[]\n,\\\xff0'):
        outcome = run(to_ndjson(), broken)
        assert run(to_ndjson(), broken, [1]) == run(to_ndjson(), broken, [5], pickled=True) == outcome
        expected = by_json(broken)
        assert outcome.failed == (expected is None)
        given = [json.loads(line) for line in lines_of(outcome.given)]
        if expected is None:
            assert (outcome.members or {})["record"] == len(given) + 1
        else:
            assert given == expected


@pytest.mark.parametrize(
    ("data", "record", "offset", "said"),
    [
        (b"", 1, 0, "there is no array"),
        (b" \n", 1, 2, "there is no array"),
        (b' {"a":1}', 1, 1, "not an array of objects"),
        (b"\xef\xbb\xbf[]", 1, 0, "not an array of objects"),
        (b"[1]", 1, 1, "not a JSON object, but of type int"),
        (b'[{"a":1}, [2]]', 2, 10, "not a JSON object, but of type array"),
        (b"[,]", 1, 1, "an element is missing"),
        (b"[{},]", 2, 4, "an element is missing"),
        (b"[{} , , {}]", 2, 6, "an element is missing"),
        (b"[{}}]", 1, 3, "a brace closes nothing"),
        (b"[{} {}]", 1, 4, "trailing characters"),
        (b'[{"a":01},{}]', 1, 7, "invalid number"),
        (b'[{},{"a":"\xff"},{}]', 2, 10, "invalid UTF-8"),
        (b'[{"a":"\n"}]', 1, 7, "invalid character"),
        (b"[{}] []", 2, 5, "something stands behind the array"),
        (b"[{},", 2, 4, "the text ends before the array does"),
        (b'[{"a":"]', 1, 8, "the text ends before the array does"),
        (b"[" + b'{"a":' * 30_000 + b"1" + b"}" * 30_000 + b"]", 1, 1, "nested too deeply"),
    ],
)
def test_what_is_wrong_is_said_with_its_record_and_offset(data: bytes, record: int, offset: int, said: str) -> None:
    for sizes in ([1], [3], [100]) if len(data) < 100 else ([100_000],):
        assert run(to_ndjson(), data, sizes).members == {"record": record, "offset": offset}
    with pytest.raises(Malformed, match=re.escape(said)):
        step = to_ndjson()
        list(step.feed(data))
        list(step.finish())


def test_the_longest_element() -> None:
    longest = b'{"a":"%b"}' % (b"x" * (MAX_RECORD_BYTES - 8))
    for size in (200_000, 2 * MAX_RECORD_BYTES, MAX_RECORD_BYTES, 70_000):
        assert run(to_ndjson(), b"[{}, %b,{}]" % longest, [size]) == Outcome(b"{}\n%b\n{}\n" % longest)
        outcome = run(to_ndjson(), b'[{}, {"a":"x%b,{}]' % longest[6:], [size])
        assert outcome == Outcome(b"{}\n", {"record": 2, "offset": 5 + MAX_RECORD_BYTES})


def test_many_elements_come_as_pieces() -> None:
    elements = [{"number": number, "nested": {"a": [number, {"b": "]"}]}} for number in range(10_000)]
    expected = "".join(json.dumps(element) + "\n" for element in elements).encode()
    assert run(to_ndjson(), json.dumps(elements).encode(), [300_000]) == Outcome(expected)
    assert run(to_ndjson(), json.dumps(elements).encode(), [7]) == Outcome(expected)


def test_an_array_of_nothing() -> None:
    assert run(to_json(), b"") == run(to_json(), b"\n\r\n") == Outcome(b"[]")
    assert run(to_ndjson(), b" [ ] ") == run(to_ndjson(), b"[]", [1]) == Outcome(b"")


def test_a_malformed_record_leaves_an_array_without_its_end() -> None:
    outcome = run(to_json(), b"{}\n{}\n1\n")
    assert outcome == Outcome(b"[{},\n{}", {"record": 3, "offset": 6})
    assert good_lines(b"{}\n{}\n1\n") == ([b"{}", b"{}"], True)


@pytest.mark.parametrize("name", NAMED)
def test_they_take_no_arguments(name: str) -> None:
    with pytest.raises(BadArguments, match="takes no arguments"):
        NAMED[name].make("")
    assert isinstance(NAMED[name].make(None), JsonToNdjson | NdjsonToJson)
