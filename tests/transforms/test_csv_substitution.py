"""Regular CSV by substitution: the same as by rows, and given back wherever it is not that simple."""

from __future__ import annotations

import json
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.transforms.csv_layout import CsvLayout
from app.transforms.csv_substitution import LEAST_BYTES, CsvSubstitution
from tests.transforms.driving import cuts, quick, run, thorough
from tests.transforms.test_csv_records import files, made

fields = st.text(st.sampled_from("ab1. é\u2028😀\x7f{}[]:'"), max_size=6)
anything = st.lists(st.sampled_from(["a", "b", ",", ",", "\t", "\n", "\n", "\r\n", "\r", '"', "\\", "é", "\0", "\x1f"]))


def lines(block: bytes, names: tuple[str, ...] = ("a", "b"), delimiter: str = ",") -> bytes | None:
    """What a block gives, however short it is."""
    with mock.patch("app.transforms.csv_substitution.LEAST_BYTES", 0):
        return CsvSubstitution(names, delimiter).lines(block)


def by_rows(block: bytes, names: tuple[str, ...], delimiter: str) -> bytes | None:
    layout = CsvLayout(names, delimiter, infer=False)
    rows = layout.quickly(block)
    return None if rows is None else b"".join(layout.write(rows))


@thorough
@given(st.data(), st.integers(2, 14), st.sampled_from(",;\t| "), st.sampled_from(["\n", "\r\n"]))
def test_each_field_gets_its_name(data: st.DataObject, width: int, delimiter: str, line_end: str) -> None:
    names = tuple(data.draw(st.lists(st.text(min_size=1, max_size=5), min_size=width, max_size=width, unique=True)))
    cells = fields.map(lambda text: text.replace(delimiter, ""))
    records = data.draw(st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1, max_size=4))
    block = "".join(delimiter.join(record) + line_end for record in records).encode()
    given_ = lines(block, names, delimiter)
    assert given_ is not None
    assert given_.endswith(b"\n")
    found = [json.loads(line) for line in given_[:-1].split(b"\n")]
    assert [list(row.items()) for row in found] == [list(zip(names, record, strict=True)) for record in records]


@thorough
@given(anything.map("".join), st.sampled_from(",\t"))
def test_whatever_it_gives_is_what_rows_give(text: str, delimiter: str) -> None:
    block = (text + "\n").encode()
    given_ = lines(block, ("a", "b"), delimiter)
    assert given_ is None or given_ == by_rows(block, ("a", "b"), delimiter)


@quick
@given(files(), cuts)
def test_a_file_gives_the_same_with_it(file: tuple[bytes, bytes], sizes: list[int]) -> None:
    data, expected = file
    with mock.patch("app.transforms.csv_substitution.LEAST_BYTES", 0):
        assert run(made(), data).given == run(made(), data, sizes).given == expected


@pytest.mark.parametrize(
    "line",
    [b'1,"2"', b'1,2"', b"1,\\", b"1,\x01", b"1,\t", b"1,2\r3,4", b"1", b"1,2,3", b"", b"1,\xff", b"1,\xc0", b"1,2\0"],
)
def test_a_line_that_is_not_that_simple_gives_the_block_back(line: bytes) -> None:
    assert lines(b"1,2\n" * 3) == b'{"a":"1","b":"2"}\n' * 3
    assert lines(b"1,2\n" + line + b"\n3,4\n") is None
    if line != b"1,\t":
        assert lines(b"1\t2\n" + line.replace(b",", b"\t") + b"\n3\t4\n", delimiter="\t") is None


def test_widths_have_their_limits() -> None:
    names = tuple("abcdefghijklmno")
    assert lines(b",".join([b"x"] * 14) + b"\n", names[:14]) is not None
    assert lines(b",".join([b"x"] * 15) + b"\n", names) is None
    assert lines(b"x\n", ("a",)) is None


def test_long_names_over_many_short_records_are_left_to_rows() -> None:
    name = "n" * 1000
    assert lines(b",\n" * 1000, (name, "b")) == b'{"%s":"","b":""}\n' % name.encode() * 1000
    assert lines(b",\n" * 1100, (name, "b")) is None


def test_short_blocks_are_left_to_rows() -> None:
    assert CsvSubstitution(("a", "b"), ",").lines(b"1,2\n" * (LEAST_BYTES // 4)) is not None
    assert CsvSubstitution(("a", "b"), ",").lines(b"1,2\n" * (LEAST_BYTES // 4 - 1)) is None


def test_a_large_block_takes_this_way() -> None:
    with mock.patch.object(CsvLayout, "quickly", side_effect=AssertionError):
        assert run(made(), b"a,b\n" + b"1,2\n" * 16_000).given == b'{"a":"1","b":"2"}\n' * 16_000
