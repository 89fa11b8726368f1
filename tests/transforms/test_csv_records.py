"""CSV to NDJSON: the quick ways against the exact one, and both against `csv` and `json` on the whole."""

from __future__ import annotations

import csv
import io
import json
import re
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.transforms.csv_layout import CsvLayout
from app.transforms.csv_records import STEPS, CsvToNdjson
from app.transforms.step import MAX_RECORD_BYTES, BadArguments
from tests.transforms.driving import Outcome, corrupted, cuts, quick, run, steps, thorough

STEP = steps(STEPS)["csv-to-ndjson"]
FILE = re.compile(r'(?:(?:"(?:[^"\0]|"")*"|[^",\r\n\0]*)(?:,|\r?\n|\Z))*')

texts = st.text(st.sampled_from('ab1.,;"\r\n\té\u2028😀\x01\\ '), max_size=6)
names = st.lists(texts.filter(bool), min_size=1, max_size=4, unique=True)
fragments = st.sampled_from(["a", "b", ",", ",", "\n", "\n", "\r\n", '"', '"', '""', "\r", "é", "\0", "12", "a,b\n"])


def made(arguments: str | None = None) -> CsvToNdjson:
    transformer = STEP.make(arguments)
    assert isinstance(transformer, CsvToNdjson)
    return transformer


def ndjson(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows).encode()


def by_csv_and_json(data: bytes) -> bytes | None:
    """What the whole gives by the standard library, or None where that finds a mistake."""
    try:
        text = data.decode().removeprefix("\ufeff")
        header, *records = filter(None, csv.reader(io.StringIO(text, newline="\n"), strict=True))
        return ndjson([dict(zip(header, record, strict=True)) for record in records])
    except (csv.Error, ValueError):
        return None


def exactly(data: bytes, arguments: str | None = None) -> Outcome:
    with mock.patch.object(CsvLayout, "quickly", return_value=None):
        return run(made(arguments), data)


@st.composite
def files(draw: st.DrawFn, delimiter: str = ",") -> tuple[bytes, bytes]:
    """A file, and what it is as NDJSON."""
    header = draw(names)
    values = texts if draw(st.booleans()) else st.sampled_from(["", "a", "12", "b c"])
    records = draw(st.lists(st.lists(values, min_size=len(header), max_size=len(header)), max_size=6))
    line_ends = st.sampled_from(draw(st.sampled_from([["\n"], ["\r\n"], ["\n", "\r\n", "\n\n", "\r\n\n"]])))
    text = draw(st.sampled_from(["", "\ufeff"]))
    for record in [header, *records]:
        written = io.StringIO()
        quoting = csv.QUOTE_ALL if draw(st.booleans()) else csv.QUOTE_MINIMAL
        csv.writer(written, delimiter=delimiter, quoting=quoting).writerow(record)
        text += written.getvalue().removesuffix("\r\n") + draw(line_ends)
    if draw(st.booleans()):
        text = text.removesuffix("\n").removesuffix("\r") if not text.endswith("\n\n") else text
    return text.encode(), ndjson([dict(zip(header, record, strict=True)) for record in records])


@thorough
@given(files(), cuts)
def test_a_file_gives_the_same_as_csv_and_json_on_the_whole_however_it_is_cut(
    file: tuple[bytes, bytes], sizes: list[int]
) -> None:
    data, expected = file
    assert run(made(), data) == Outcome(expected)
    assert run(made(), data, sizes) == Outcome(expected)
    assert exactly(data) == Outcome(expected)


@quick
@given(files(";"))
def test_another_delimiter(file: tuple[bytes, bytes]) -> None:
    data, expected = file
    assert run(made("delimiter=;"), data, [1]) == run(made("delimiter=semicolon"), data) == Outcome(expected)


@quick
@given(files(), cuts)
def test_pickled_between_pieces(file: tuple[bytes, bytes], sizes: list[int]) -> None:
    data, expected = file
    assert run(made(), data, sizes, pickled=True) == Outcome(expected)


@thorough
@given(st.lists(fragments, max_size=25).map("".join), cuts)
def test_any_text_gives_one_outcome_whichever_way_it_is_read(text: str, sizes: list[int]) -> None:
    data = ("a,b\n" + text).encode()
    outcome = run(made(), data)
    assert run(made(), data, sizes) == run(made(), data, [1]) == exactly(data) == outcome
    expected = by_csv_and_json(data)
    if not outcome.failed:
        assert outcome.given == expected
    elif FILE.fullmatch(data.decode()):
        assert expected is None


def test_a_small_file_broken_at_each_position_is_malformed_or_means_something_else() -> None:
    data = 'a,b,é\r\n1,"x, ""y""\n",ü\n\n"",2,"3"\n'.encode()
    assert run(made(), data) == Outcome(by_csv_and_json(data) or b"")
    for broken in corrupted(data, b'"\n\r,\0\xffx'):
        outcome = run(made(), broken)
        assert run(made(), broken, [1]) == run(made(), broken, [3], pickled=True) == exactly(broken) == outcome
        if not outcome.failed and broken.strip(b"\r\n"):
            assert outcome.given == by_csv_and_json(broken)


@pytest.mark.parametrize(
    ("data", "line", "offset"),
    [
        (b"a,b\n1\n", 2, 5),
        (b"a,b\n1,2,3\n", 2, 8),
        (b"a,b\n1,2,3\n4", 2, 8),
        (b'a,b\n"x\ny",2,3\n', 3, 12),
        (b"a,b\n1,2\n3", 3, 9),
        (b"a,a\n", 1, 2),
        (b'"a,","a,"\n', 1, 5),
        (b"a,,b\n", 1, 2),
        (b"a,\n", 1, 2),
        (b'""\n', 1, 0),
        (b'a,b\n1,x"y\n', 2, 7),
        (b'a,b\n1,"x"y\n', 2, 9),
        (b'a,b\n1,"x" \n', 2, 9),
        (b'a,b\n\n1,"x\n\n', 3, 7),
        (b'"', 1, 0),
        (b"a,b\n1,\xff\n", 2, 6),
        (b'a,b\n1,"\n\xc3"\n', 3, 8),
        (b"\xff,b\n", 1, 0),
        (b"a,b\n1,2\n3,4\x00\n", 3, 11),
        (b"a,b\n1,2\r3,4\n", 2, 7),
        (b"a,b\n1,2\r", 2, 7),
        (b"\xef\xbb\xbfa,b\n1\n", 2, 8),
        (b"a\n\xef\xbb\xbf\n\n\xff", 4, 7),
    ],
)
def test_what_is_wrong_is_said_with_its_line_and_offset(data: bytes, line: int, offset: int) -> None:
    for sizes in ([1], [3], [100]):
        assert run(made(), data, sizes).members == {"line": line, "offset": offset}


@pytest.mark.parametrize("data", [b"", b"\n\r\n", b"\xef\xbb\xbf", b"a,b", b"a,b\n\n", b"\xef\xbb\xbfa,b\r\n"])
def test_without_records_nothing_comes(data: bytes) -> None:
    assert run(made(), data) == run(made(), data, [1]) == Outcome(b"")


def test_names_that_json_escapes_and_very_many_names() -> None:
    assert run(made(), b'"a""\\",b\n1,2\n').given == b'{"a\\"\\\\":"1","b":"2"}\n'
    many = [f"n{at}" for at in range(1500)]
    row = ",".join(str(at) for at in range(1500))
    expected = ndjson([{name: str(at) for at, name in enumerate(many)}])
    assert run(made(), f"{','.join(many)}\n{row}\n".encode()).given == expected


def test_long_names_over_short_records_come_in_pieces_all_the_same() -> None:
    name = "n" * 300_000
    outcome = run(made(), f"{name},b\n".encode() + b",\n" * 10)
    assert outcome.given == ndjson([{name: "", "b": ""}] * 10)


@pytest.mark.parametrize("quote", ["", '"'])
def test_the_longest_record(quote: str) -> None:
    longest = quote + "x" * (MAX_RECORD_BYTES - 1 - 2 * len(quote)) + quote
    expected = ndjson([{"a": "1"}, {"a": longest.strip('"')}, {"a": "2"}])
    data = f"a\n1\n{longest}\n2\n".encode()
    assert run(made(), data) == run(made(), data, [100_000]) == Outcome(expected)
    data = f"a\n1\n{longest}x\n2\n".encode() if not quote else f'a\n1\n"x{longest[1:]}\n2\n'.encode()
    for cut in (len(data), 100_000, MAX_RECORD_BYTES, 70_000):
        outcome = run(made(), data, [cut])
        assert outcome == Outcome(b'{"a":"1"}\n', {"line": 3, "offset": 4 + MAX_RECORD_BYTES})


def test_a_mistake_is_named_though_the_record_it_opens_has_no_end() -> None:
    data = b'a,b\n1,x"y\n' + b"1,2\n" * MAX_RECORD_BYTES
    assert run(made(), data, [200_000]).members == {"line": 2, "offset": 7}


INFERRED = {
    "": "null",
    "true": "true",
    "false": "false",
    "0": "0",
    "-1": "-1",
    "123456789012345": "123456789012345",
    "1.10": "1.10",
    "-0.5": "-0.5",
}
TEXTS = [
    "-0",
    "007",
    "+1",
    "1.",
    ".5",
    "1e5",
    "1234567890123456",
    "NaN",
    "null",
    "True",
    " 1",
    "1 ",
    "0x1",
    "1\n2",
    "٣",
]


@quick
@given(st.lists(st.tuples(*[st.sampled_from([*INFERRED, *TEXTS])] * 2), min_size=1, max_size=8), st.booleans())
def test_infer_makes_values_of_texts_that_are_values_without_loss(rows: list[tuple[str, str]], quoted: bool) -> None:
    data = io.StringIO()
    csv.writer(data, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL).writerows([("a", "b"), *rows])
    values = [[INFERRED.get(text) or json.dumps(text, ensure_ascii=False) for text in row] for row in rows]
    expected = "".join(f'{{"a":{a},"b":{b}}}\n' for a, b in values).encode()
    whole = data.getvalue().encode()
    assert run(made("infer"), whole) == run(made("infer"), whole, [1]) == Outcome(expected)
    assert exactly(whole, "infer") == Outcome(expected)


def test_infer_over_columns_of_one_kind() -> None:
    data = b"a;b\n" + b"".join(b"%d;x%d\n" % (number, number) for number in range(20_000))
    expected = b"".join(b'{"a":%d,"b":"x%d"}\n' % (number, number) for number in range(20_000))
    assert run(made("infer,delimiter=;"), data, [50_000]) == Outcome(expected)


@pytest.mark.parametrize("delimiter", ["tab", "pipe", "|", " ", "^", "]", "\\", "-", "a", "."])
def test_delimiters(delimiter: str) -> None:
    character = {"tab": "\t", "pipe": "|"}.get(delimiter, delimiter)
    data = f'A,{character}B\n1,{character}"2"\n'.encode()
    expected = b'{"A,":"1,","B":"2"}\n'
    assert run(made(f"delimiter={delimiter}"), data) == Outcome(expected)
    assert run(made(f"delimiter={delimiter}"), data.replace(b'"', b"")) == Outcome(expected)
    assert exactly(data, f"delimiter={delimiter}") == Outcome(expected)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "delimiter=CHARACTER and infer"),
        ("header", "delimiter=CHARACTER and infer"),
        ("infer,infer", "each once"),
        ("infer=yes", "delimiter=CHARACTER and infer"),
        ("delimiter", "delimiter=CHARACTER and infer"),
        ("delimiter=", "one printable ASCII character"),
        ("delimiter=;;", "one printable ASCII character"),
        ('delimiter="', "one printable ASCII character"),
        ("delimiter=\n", "one printable ASCII character"),
        ("delimiter=é", "comma, semicolon, tab, pipe"),
        ("delimiter=,", "comma"),
    ],
)
def test_arguments_that_are_not_understood(arguments: str, said: str) -> None:
    with pytest.raises(BadArguments, match=re.escape(said)):
        STEP.make(arguments)
