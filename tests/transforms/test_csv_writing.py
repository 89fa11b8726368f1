"""NDJSON to CSV: against `csv` on the whole, and there and back."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.transforms import csv_records
from app.transforms.csv_writing import STEPS, NdjsonToCsv
from app.transforms.step import BadArguments, Transformer
from tests.transforms.driving import Outcome, corrupted, cuts, quick, run, steps
from tests.transforms.records import NAMES, VALUES, Sample, good_lines, streams

NAMED = steps(STEPS, csv_records.STEPS)
TEXTS = [value for value in VALUES if value.startswith('"')]


def made(arguments: str | None = None) -> Transformer:
    return NAMED["ndjson-to-csv"].make(arguments)


def cell(value: str) -> str:
    if value.startswith('"'):
        return json.loads(value)
    return "" if value == "null" else value


def by_csv(records: list[dict[str, str]], delimiter: str = ",") -> Outcome:
    """The records, from the texts of their members' values, as far as the header allows."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    header = list(records[0]) if records else []
    for number, record in enumerate(records, 1):
        if not header or not set(record) <= set(header):
            return Outcome(text.getvalue().encode(), {"record": number})
        if number == 1:
            writer.writerow(header)
        writer.writerow([cell(record.get(name, "null")) for name in header])
    return Outcome(text.getvalue().encode())


def check(data: bytes, sizes: list[int], expected: Outcome, arguments: str | None = None) -> None:
    outcome = run(made(arguments), data)
    assert outcome.given == expected.given
    assert (outcome.members or {}).get("record") == (expected.members or {}).get("record")
    assert run(made(arguments), data, sizes) == run(made(arguments), data, [1]) == outcome
    assert run(made(arguments), data, sizes, pickled=True) == outcome


@quick
@given(streams() | streams(["a"]) | streams(["a", "é"], TEXTS), cuts)
def test_records_give_the_same_as_csv_on_the_whole(stream: tuple[bytes, list[Sample]], sizes: list[int]) -> None:
    data, records = stream
    check(data, sizes, by_csv([record.members for record in records]))
    check(data, sizes, by_csv([record.members for record in records], ";"), "delimiter=;")


@quick
@given(st.lists(st.fixed_dictionaries(dict.fromkeys(NAMES, st.text(st.sampled_from('a",;\r\n é😀'), max_size=4)))))
def test_what_was_csv_comes_back(rows: list[dict[str, str]]) -> None:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    as_csv = run(made(), data)
    back = run(NAMED["csv-to-ndjson"].make(None), as_csv.given)
    assert [json.loads(line) for line in back.given.splitlines()] == rows


def test_line_ends_quotes_and_values() -> None:
    data = b'{"a":"x","b":1.10}\n{"b":{"c": [1,"d"]}}\n{"a":null,"b":true}\n{"a":"\\u00e9 \\"q\\"","b":"1\\n2"}\n'
    expected = 'a,b\r\nx,1.10\r\n,"{""c"": [1,""d""]}"\r\n,true\r\n"é ""q""","1\n2"\r\n'
    assert run(made(), data) == Outcome(expected.encode())
    assert run(made(), b'{"a":""}\n{}\n') == Outcome(b'a\r\n""\r\n""\r\n')
    assert run(made(), b"\n") == Outcome(b"")


@pytest.mark.parametrize(
    ("data", "given", "record", "offset"),
    [
        (b'{"a":"1"}\n{"a":"2","b":"3"}\n', b"a\r\n1\r\n", 2, 10),
        (b'{"a":1}\n\n {"b":3}', b"a\r\n1\r\n", 2, 10),
        (b'{}\n{"a":1}\n', b"", 1, 0),
        (b'{"a":"1"}\n{"a":"\xff"}\n', b"a\r\n1\r\n", 2, 16),
    ],
)
def test_what_is_wrong_is_said_with_its_record_and_offset(data: bytes, given: bytes, record: int, offset: int) -> None:
    for sizes in ([1], [100]):
        assert run(made(), data, sizes) == Outcome(given, {"record": record, "offset": offset})


def test_very_many_names_over_short_records_come_in_pieces() -> None:
    names = [f"n{at}" for at in range(50_000)]
    data = json.dumps(dict.fromkeys(names, 1)).encode() + b"\n" + b"{}\n" * 20
    expected = ",".join(names) + "\r\n" + ",".join(["1"] * 50_000) + "\r\n" + ("," * 49_999 + "\r\n") * 20
    assert run(made(), data) == Outcome(expected.encode())


@pytest.mark.parametrize("second", ['"2"', "2"])
def test_a_small_stream_broken_at_each_position_is_malformed_there_or_means_something_else(second: str) -> None:
    data = f'{{"a":"1","é":"]}}"}}\r\n\n {{"a":{second}}}\n{{"é":"\\u00e9"}}'.encode()
    for broken in corrupted(data, b'"{}\n,\xff0'):
        lines, malformed = good_lines(broken)
        outcome = run(made(), broken)
        assert run(made(), broken, [1]) == run(made(), broken, [5], pickled=True) == outcome
        expected = by_csv([{name: json.dumps(value) for name, value in json.loads(line).items()} for line in lines])
        assert outcome.given == expected.given
        assert outcome.failed == (malformed or expected.failed)


@pytest.mark.parametrize("arguments", ["", "infer", "delimiter=", "delimiter=;,delimiter=;", "tab"])
def test_arguments_that_are_not_understood(arguments: str) -> None:
    with pytest.raises(BadArguments, match="delimiter"):
        made(arguments)


def test_it_is_one_step() -> None:
    assert isinstance(made(), NdjsonToCsv)
    assert isinstance(made("delimiter=tab"), NdjsonToCsv)
