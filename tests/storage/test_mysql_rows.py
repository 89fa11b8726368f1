"""Answers read in one go: just as the driver reads them, packet by packet, or not at all."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio_mysql.constants import FIELD_TYPE  # pyright: ignore[reportMissingTypeStubs]

from app.settings import DatabaseSettings
from app.storage.database import Row, Rows
from app.storage.mysql import open_mysql
from app.storage.mysql_connection import _Driver  # pyright: ignore[reportPrivateUsage]
from app.storage.mysql_rows import Shape, shape_of

# Of a column: its type, and its charset. 63 is binary.
_COLUMNS = {str: (FIELD_TYPE.VAR_STRING, 45), int: (FIELD_TYPE.LONGLONG, 63), bytes: (FIELD_TYPE.BLOB, 63)}
_TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
_VALUES = {str: _TEXTS, int: st.integers(-(2**63), 2**63 - 1), bytes: st.binary(max_size=20)}

type Kinds = tuple[type, ...]


def _text(value: bytes) -> bytes:
    size = len(value)
    if size < 251:
        return b"%c%b" % (size, value)
    return (b"\xfc" + size.to_bytes(2, "little") if size < 2**16 else b"\xfd" + size.to_bytes(3, "little")) + value


def _cell(value: object) -> bytes:
    if value is None:
        return b"\xfb"
    return _text(value if isinstance(value, bytes) else str(value).encode())


def _column(kind: type) -> bytes:
    type_code, charset = _COLUMNS[kind]
    told = charset.to_bytes(2, "little") + bytes(4) + bytes([type_code]) + bytes(5)
    return b"".join(map(_text, (b"def", b"db", b"t", b"t", b"name", b"name"))) + b"\x0c" + told


def _answer(kinds: Kinds, rows: Rows, status: int = 2) -> bytes:
    eof = b"\xfe\0\0" + status.to_bytes(2, "little")
    packets = [bytes([len(kinds)]), *map(_column, kinds), eof, *(b"".join(map(_cell, row)) for row in rows), eof]
    numbered = enumerate(packets, 1)
    return b"".join(len(data).to_bytes(3, "little") + bytes([number % 256]) + data for number, data in numbered)


class _Nobody:
    """A server that has said all."""

    async def receive_some(self, _most: int) -> bytes:
        return b""

    def close(self) -> None: ...


def _by_driver(answer: bytes) -> tuple[Any, Rows]:
    """What the driver reads, packet by packet. *Errors*: what it raises, and AssertionError where it leaves some."""
    driver = cast("Any", _Driver(charset="utf8mb4", use_unicode=True, defer_connect=True))
    driver._sock, driver._rbuf, driver._rbuf_offset, driver._next_seq_id = _Nobody(), bytearray(answer), 0, 1
    trio.run(driver._read_query_result)
    assert driver._rbuf_offset == len(answer)
    assert not driver._result.has_next
    return driver._result.converters, list(driver._result.rows)


def _shape(kinds: Kinds) -> Shape:
    answer = _answer(kinds, [])
    converters, rows = _by_driver(answer)
    shape = shape_of(answer, converters, rows)
    assert shape is not None
    return shape


_SHAPES: dict[Kinds, Shape] = {kinds: _shape(kinds) for kinds in [(str,), (int, str), (bytes, str, int)]}


@st.composite
def _results(draw: st.DrawFn) -> tuple[Kinds, Rows]:
    kinds = draw(st.sampled_from(list(_SHAPES)))
    row = st.tuples(*(st.none() | _VALUES[kind] for kind in kinds))
    return kinds, cast("Rows", draw(st.lists(row, max_size=5)))


@given(_results())
def test_all_rows_are_read(result: tuple[Kinds, Rows]) -> None:
    kinds, rows = result
    assert _SHAPES[kinds].rows(_answer(kinds, rows)) == rows


@pytest.mark.parametrize("size", [250, 251, 2**16 - 1, 2**16])
def test_long_texts(size: int) -> None:
    row: Row = (1, "x" * size)
    assert _SHAPES[int, str].rows(_answer((int, str), [row])) == [row]


def test_packets_are_numbered_anew_after_the_last() -> None:
    rows: Rows = [(str(number),) for number in range(600)]
    assert _SHAPES[(str,)].rows(_answer((str,), rows)) == rows


@given(_results(), st.data())
def test_what_is_cut_short_is_left_to_the_driver(result: tuple[Kinds, Rows], data: st.DataObject) -> None:
    kinds, rows = result
    answer = _answer(kinds, rows)
    assert _SHAPES[kinds].rows(answer[: data.draw(st.integers(0, len(answer) - 1))]) is None
    assert _SHAPES[kinds].rows(answer + data.draw(st.binary(min_size=1, max_size=12))) is None


@settings(max_examples=500, deadline=None)
@given(_results(), st.data())
def test_whatever_else_comes_is_read_as_the_driver_reads_it_or_left_to_it(
    result: tuple[Kinds, Rows], data: st.DataObject
) -> None:
    kinds, rows = result
    answer = bytearray(_answer(kinds, rows))
    for _ in range(data.draw(st.integers(1, 3))):
        answer[data.draw(st.integers(len(_SHAPES[kinds].head), len(answer) - 1))] = data.draw(
            st.integers(0, 255) | st.sampled_from(b"\xfe\xff")
        )
    read = _SHAPES[kinds].rows(bytes(answer))
    if read is not None:
        assert _by_driver(bytes(answer))[1] == read


@pytest.mark.parametrize("kinds", list(_SHAPES))
def test_another_result_that_follows_is_left_to_the_driver(kinds: Kinds) -> None:
    assert _SHAPES[kinds].rows(_answer(kinds, [], status=0x0A)) is None


def test_other_columns_are_another_shape() -> None:
    assert _SHAPES[(str,)].rows(_answer((int,), [])) is None
    assert shape_of(_answer((str,), [("a",)]), _SHAPES[(str,)].converters, [("b",)]) is None


async def test_answers_of_any_size_and_shape_in_turn(mysql_settings: DatabaseSettings) -> None:
    # Small ones, ones that come in pieces, ones without rows, and more shapes than are remembered.
    async with open_mysql(mysql_settings) as mysql:
        for turn in range(3):
            for size in (1, 300, 70_000, 300_000):
                assert await mysql.fetch("SELECT repeat('ä', ?), ?, NULL", (size, turn)) == [("ä" * size, turn, None)]
            assert await mysql.fetch("SELECT 1 WHERE 1 = 0") == []
            assert await mysql.fetch("SET @a = 1") == []
            for columns in range(1, 12):
                marks = ", ".join("?" * columns)
                assert await mysql.fetch(f"SELECT {marks}", range(columns)) == [tuple(range(columns))]
        assert mysql.statistics().opened == 1
